"""The epoch object, `INSTANCE/epoch`: who may write an instance's objects, as JSON.

`epoch` is how a shipper holds it; the applier fences it after a promotion.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from logship.bucket.keys import epoch_key
from logship.documents import decode_numbered
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, plain_lsn
from logship.objects import ConditionFailedError, ObjectStore

FORMAT: Final = 1


class Fence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The instance was promoted: nothing of the old line is written any more."""

    at: float
    timeline: int = 0
    """0: the standby is still being opened."""
    lsn: int = 0


class EpochRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The epoch object.  Numbers only grow."""

    format: int = FORMAT
    number: int
    nonce: str = ""
    shipper_id: str = ""
    boot_id: str = ""
    host: str = ""
    machine: str = ""
    cards: tuple[str, ...] = ()
    cloud: str = ""
    taken_at: float = 0.0
    fenced: Fence | None = None


def read_epoch(store: ObjectStore, instance: str) -> tuple[EpochRecord | None, str]:
    """The epoch object and its etag; (None, "") if nobody ever wrote.

    Raises LogshipError: OBJECT_DAMAGED and what the store raises.
    """
    key = epoch_key(instance)
    fetched = store.get(key)
    if fetched is None:
        return None, ""
    return decode_epoch(fetched.data, f"{store.name}: {key}"), fetched.etag


def fence_epoch(store: ObjectStore, instance: str, fence: Fence) -> None:
    """Have whoever writes the instance's objects stop, for good.  Blocking.

    Raises LogshipError: what the store raises, and OBJECT_EXISTS where writers were quicker
    each time.
    """
    for last in (False, False, False, False, True):
        found, etag = read_epoch(store, instance)
        record = found if found is not None else EpochRecord(number=0)
        try:
            store.put(
                epoch_key(instance),
                encode_epoch(msgspec.structs.replace(record, fenced=fence)),
                only_if_absent=found is None,
                only_if_etag=etag,
            )
        except ConditionFailedError:
            if last:
                raise
        else:
            return


def fenced_error(instance: str, fence: Fence) -> LogshipError:
    """What a shipper says whose instance was promoted."""
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(fence.at))
    where = (
        f"opened on timeline {fence.timeline} at {Lsn(fence.lsn)}"
        if fence.timeline
        else "is being opened"
    )
    return LogshipError(
        Code.FENCED,
        f"{instance} was promoted on the recovery server at {when}: its standby {where}",
        "nothing is shipped any more; keep clients away from this primary",
    )


def describe_holder(record: EpochRecord) -> str:
    """The holder, for messages."""
    since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(record.taken_at))
    return (
        f"the shipper {record.shipper_id[:8]} on {record.host or 'an unknown host'} since {since}"
    )


_encoder = msgspec.json.Encoder(enc_hook=plain_lsn)


def encode_epoch(record: EpochRecord) -> bytes:
    return msgspec.json.format(_encoder.encode(record), indent=2) + b"\n"


def decode_epoch(data: bytes, where: str) -> EpochRecord:
    """Raises LogshipError(OBJECT_DAMAGED), naming `where`."""
    hint = "find out who wrote it; nothing is written to the bucket meanwhile"
    return decode_numbered(data, EpochRecord, FORMAT, where, hint)

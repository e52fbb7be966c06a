"""The sign of life, `INSTANCE/alive`: that the shipper puts what its primary writes, as JSON.

Without one, a shipper that is dead and a primary that writes nothing look alike to who reads the
bucket.  It is as plain as the epoch object, and replaced each time.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from logship.bucket.keys import alive_key
from logship.documents import decode_numbered
from logship.lsn import plain_lsn
from logship.objects import ObjectStore

FORMAT: Final = 1

Seconds = Annotated[float, Meta(ge=0, le=1e11)]
"""More is no time: it could not be shown, or waited for."""


class SignOfLife(msgspec.Struct, frozen=True, kw_only=True):
    """What the holder of the epoch says, and when."""

    format: int = FORMAT
    epoch: int
    sent_at: Seconds
    """By the shipper's clock."""
    every_seconds: Seconds
    """When the next is due; 0: none is to be expected any more."""
    cluster: str
    """SYSID-MAJOR of the primary."""
    reachable: bool
    """Whether the primary is, from the shipper."""
    timeline: int
    flush_lsn: int
    """As last heard of the primary; 0: never."""
    heard_at: Seconds
    """When that was, by the shipper's clock; 0: never."""


_encoder = msgspec.json.Encoder(enc_hook=plain_lsn)


def put_sign(store: ObjectStore, instance: str, sign: SignOfLife) -> None:
    """Replace the one before.  Blocking.  Raises LogshipError: of the store."""
    store.put(alive_key(instance), _encoder.encode(sign) + b"\n")


def read_sign(store: ObjectStore, instance: str) -> SignOfLife | None:
    """None: nobody ever put one.  Blocking.

    Raises LogshipError: OBJECT_DAMAGED and what the store raises.
    """
    key = alive_key(instance)
    fetched = store.get(key)
    if fetched is None:
        return None
    hint = "find out who wrote it; a running shipper replaces it"
    return decode_numbered(fetched.data, SignOfLife, FORMAT, f"{store.name}: {key}", hint)

"""instance.json, on which a fence stands: what is damaged must never read as "not fenced".

Input: the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec

from applier.compat import Lack
from applier.operations.record import (
    Fence,
    Heard,
    InstanceRecord,
    load_record,
    record_path,
)
from logship.errors import Code, LogshipError
from logship.lsn import plain_lsn
from tests.fuzz.errors import check_refusal
from tests.fuzz.mutation import mutate_document
from tests.fuzz.target import MutateBytes
from tests.support.link_frames import profile

_MEMORY = Path("/dev/shm")


def run(data: bytes) -> bool:
    with tempfile.TemporaryDirectory(
        prefix="logship-", dir=_MEMORY if _MEMORY.is_dir() else None
    ) as name:
        record_path(Path(name)).write_bytes(data)
        try:
            record = load_record(Path(name), "main")
        except LogshipError as error:
            check_refusal(error, Code.STORE_DAMAGED)
            return False
        again = msgspec.json.encode(record, enc_hook=plain_lsn)
        record_path(Path(name)).write_bytes(again)
        assert msgspec.json.encode(load_record(Path(name), "main"), enc_hook=plain_lsn) == again
        return True


def seeds() -> Iterator[bytes]:
    heard = Heard(timeline=1, lsn=1 << 24, at=1e9)
    fence = Fence(at=1e9, reason="promotion")
    bare = InstanceRecord(name="main")
    full = InstanceRecord(
        name="main",
        incarnation=profile().incarnation,
        profile=profile(),
        protection="sync",
        fence=fence,
        heard=heard,
        held_lsn=1 << 24,
        lacking=(Lack("locales", ("de_DE.UTF-8",)),),
    )
    for record in (bare, full):
        yield msgspec.json.encode(record)
        yield msgspec.json.format(msgspec.json.encode(record), indent=2)


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    try:
        return msgspec.json.encode(mutate_document(msgspec.json.decode(data), random))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return other(data, max_bytes)

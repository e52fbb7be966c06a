"""Objects in, the frames of a seed out; which seeds there are; removal."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple

import crc32c
import msgspec
import structlog

from logship.bucket.keys import Keys, SeedName
from logship.bucket.seed_archive.documents import (
    BASE,
    BEGIN,
    END,
    MANIFEST,
    PLAIN,
    Opens,
    Part,
    SeedInfo,
    info_of,
    part_key,
    read_begin,
    read_end,
)
from logship.bucket.wal_objects import damaged, decompress
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedChunk, SeedEnd
from logship.objects import NotDeleted, ObjectStore

CHUNK_BYTES: Final = 1024 * 1024
"""Raw bytes of the chunks that a seed is read as."""
AHEAD_PARTS: Final = 4
"""Parts that are fetched at a time."""
_DELETE_KEYS: Final = 1000

SeedFrame = SeedBegin | SeedChunk | SeedEnd

_log = structlog.get_logger(__name__)


def list_seeds(
    store: ObjectStore, keys: Keys, identities: Opens = PLAIN, *, skip_sealed: bool = False
) -> list[SeedInfo]:
    """The complete seeds, oldest first: by timeline, then by where their WAL starts.

    One whose documents are damaged is left out, with a warning in the log.  skip_sealed: so is
    one that no identity opens, unless that goes for all that there are.  Raises LogshipError: of
    the store, and IDENTITY_MISSING.
    """
    found = []
    sealed: LogshipError | None = None
    for name in _names(store, keys):
        try:
            info = find_seed(store, keys, name, identities)
        except LogshipError as error:
            if error.code is Code.IDENTITY_MISSING and skip_sealed:
                sealed = error
            elif error.code is not Code.OBJECT_DAMAGED:
                raise
            _log.warning("a seed can't be used", seed=str(name), **error.as_dict())
            continue
        if info is not None:
            found.append(info)
    if sealed is not None and not found:
        raise sealed
    return sorted(found, key=lambda info: (info.timeline, info.start_lsn, info.finished_at))


def find_seed(
    store: ObjectStore, keys: Keys, name: SeedName, identities: Opens = PLAIN
) -> SeedInfo | None:
    """The seed of this name; None if it is not complete, or not there.

    Raises LogshipError: of the store, IDENTITY_MISSING, OBJECT_DAMAGED.
    """
    end_key, begin_key = keys.seed(name, END), keys.seed(name, BEGIN)
    end = store.get(end_key)
    if end is None:
        return None
    where = f"{store.name} {end_key}"
    begin = store.get(begin_key)
    if begin is None:
        raise damaged(where, "the beginning of this seed is missing")
    begin_where = f"{store.name} {begin_key}"
    opened = identities.open(begin.data, begin_where)
    begin_document, checksum = read_begin(opened, keys, name, begin_where)
    end_document = read_end(identities.open(end.data, where), checksum, name, where)
    return info_of(name, begin_document, end_document)


def unfinished_seeds(store: ObjectStore, keys: Keys) -> dict[SeedName, float]:
    """Seeds without an end, with when something was last added to each, by the store's clock:
    one of them may be on its way."""
    found = {}
    for name in _names(store, keys):
        if store.describe(keys.seed(name, END)) is None:
            times = [each.modified_at for each in store.listing(keys.seed(name, ""))]
            if times:
                found[name] = max(times)
    return found


def remove_seed(store: ObjectStore, keys: Keys, name: SeedName) -> list[NotDeleted]:
    """Remove a seed, finished or not.  Returns what could not be removed.

    Its end goes first, so that no incomplete seed ever looks complete: where that can't be
    removed, nothing else is.
    """
    kept = store.delete([keys.seed(name, END)])
    if kept:
        return kept
    objects = (each.key for each in store.listing(keys.seed(name, "")))
    while batch := list(itertools.islice(objects, _DELETE_KEYS)):
        kept += store.delete(batch)
    return kept


def read_seed(
    store: ObjectStore, keys: Keys, info: SeedInfo, identities: Opens = PLAIN
) -> Iterator[tuple[SeedFrame, bytes]]:
    """The frames of the seed, as a receiver of seeds takes them, each with its payload.

    Whether every part is there is looked up before the first frame is given, each part is
    checked before a byte of it is.  Read again, gives the same frames.  Raises LogshipError: of
    the store, IDENTITY_MISSING, OBJECT_DAMAGED.  A few parts are fetched ahead, in threads that
    end with the iterator: `close` it, where it is not read to its end.
    """
    _check_objects(store, keys, info)
    begin = msgspec.structs.replace(info.begin, estimated_bytes=info.raw_bytes)
    yield begin, b""
    sequence = itertools.count()
    with ThreadPoolExecutor(AHEAD_PARTS, thread_name_prefix="seed-parts") as pool:
        for kind, archive, raw in _pieces(store, keys, info, identities, pool):
            chunk = SeedChunk(
                seed_id=info.begin.seed_id,
                sequence=next(sequence),
                kind=kind,
                archive=archive,
                raw_bytes=len(raw),
                crc32c=crc32c.crc32c(raw),
            )
            yield chunk, raw
    yield msgspec.structs.replace(info.end, sequence=next(sequence)), b""


class _Wanted(NamedTuple):
    """A part, or (None) the start of an archive."""

    archive: str
    key: str
    part: Part | None


def _names(store: ObjectStore, keys: Keys) -> Iterator[SeedName]:
    for folder in store.folders(keys.all_seeds):
        try:
            yield SeedName.parse(folder)
        except ValueError:
            _log.warning("not a seed", store=store.name, folder=f"{keys.all_seeds}{folder}")


def _wanted(keys: Keys, info: SeedInfo) -> Iterator[_Wanted]:
    for archive in info.archives:
        yield _Wanted(archive.name, "", None)
        for number, part in enumerate(archive.parts):
            yield _Wanted(archive.name, part_key(keys, info.name, archive.name, number), part)


def _check_objects(store: ObjectStore, keys: Keys, info: SeedInfo) -> None:
    there = {each.key: each.size_bytes for each in store.listing(keys.seed(info.name, ""))}
    for wanted in _wanted(keys, info):
        if wanted.part is None:
            continue
        size_bytes = there.get(wanted.key)
        if size_bytes != wanted.part.stored_bytes:
            found = "is missing" if size_bytes is None else f"has {size_bytes} bytes"
            raise damaged(
                f"{store.name} {wanted.key}",
                f"this part of a seed {found}, {wanted.part.stored_bytes} bytes were written",
            )


def _pieces(
    store: ObjectStore, keys: Keys, info: SeedInfo, identities: Opens, pool: ThreadPoolExecutor
) -> Iterator[tuple[str, str, bytes]]:
    """(kind, archive, raw bytes) of each chunk."""

    def fetch(key: str, part: Part) -> bytes:
        where = f"{store.name} {key}"
        fetched = store.get(key)
        if fetched is None:
            raise damaged(where, "this part of a seed is missing")
        if len(fetched.data) != part.stored_bytes:
            raise damaged(where, f"{len(fetched.data)} bytes, {part.stored_bytes} were written")
        raw = decompress(identities.open(fetched.data, where), part.raw_bytes, where)
        if crc32c.crc32c(raw) != part.crc32c:
            raise damaged(where, "its bytes do not match their CRC-32C")
        return raw

    ahead: deque[tuple[_Wanted, Future[bytes] | None]] = deque()
    wanted = _wanted(keys, info)
    try:
        while True:
            for each in itertools.islice(wanted, AHEAD_PARTS + 1 - len(ahead)):
                part = each.part
                ahead.append((each, pool.submit(fetch, each.key, part) if part else None))
            if not ahead:
                return
            each, future = ahead.popleft()
            if future is None:
                yield _start_of(each.archive)
                continue
            raw = future.result()
            for start in range(0, len(raw), CHUNK_BYTES):
                yield "data", "", raw[start : start + CHUNK_BYTES]
    finally:
        for _, future in ahead:
            if future is not None:
                future.cancel()


def _start_of(archive: str) -> tuple[str, str, bytes]:
    if archive == MANIFEST:
        return "manifest", "", b""
    return "archive", "" if archive == BASE else archive, b""

"""Finished segments, joined into one object each; the small ones go after a grace time.

It follows what is stored, in order.  A segment of which this process saw every byte is made
from what it had in memory; of another one the objects are fetched again, unless they are sealed:
then they stay as they are.  What is left to do is remembered over a restart.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import crc32c
import msgspec
import structlog
import zstandard

from logship import durable
from logship.bucket.keys import Place
from logship.bucket.wal_objects import decompress, metadata_of, read_head, unpack
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.errors import LogshipError
from logship.lsn import Lsn
from logship.objects import ConditionFailedError
from logship.wal import segment_end, segment_start
from shipper.destinations.bucket.batches import Context
from shipper.destinations.bucket.objects import BucketObjects, PackedWal, gone
from shipper.destinations.bucket.uploads import RunBlocking, patiently

log = structlog.get_logger(__name__)

MAX_SEGMENT_BYTES: Final = 64 << 20
"""Larger segments stay as they are: joining one takes several times its size in memory."""
MAX_KEPT_BYTES: Final = 64 << 20
"""Of bodies that are kept to be joined; past that they are fetched again."""
MAX_REMEMBERED: Final = 10_000
ZSTD_LEVEL: Final = 3


class Finished(msgspec.Struct, frozen=True):
    """A segment that is to be joined (remove_at 0), or was, and whose small objects go then."""

    timeline: int
    start_lsn: int
    remove_at: float = 0.0
    """Seconds since the epoch."""


class _Memory(msgspec.Struct, frozen=True):
    store: str
    incarnation: str
    segments: list[Finished]


class Bodies(NamedTuple):
    """A segment's objects, as this process made them."""

    bodies: tuple[bytes, ...]
    places: tuple[Place, ...]
    context: Context


class SegmentsSeen:
    """Which segments are finished, by what is stored.  No I/O."""

    def __init__(self, segment_bytes: int) -> None:
        self._segment_bytes = segment_bytes
        self._next: Place | None = None
        self._whole = False
        self._bodies: list[bytes] = []
        self._places: list[Place] = []
        self._kept_bytes = 0

    def stored(self, packed: PackedWal) -> tuple[Finished, Bodies | None] | None:
        """The next object is stored.  Returns the segment that it finished, if that consists of
        several; with its objects' bodies if all of them were seen."""
        batch = packed.batch
        start = segment_start(batch.place.lsn, self._segment_bytes)
        if batch.place.lsn == start or self._next != batch.place:
            self._whole = batch.place.lsn == start
            self._bodies, self._places, self._kept_bytes = [], [], 0
        self._next = batch.end
        if self._whole:
            self._bodies.append(packed.body)
            self._places.append(batch.place)
            self._kept_bytes += len(packed.body)
            if self._kept_bytes > MAX_KEPT_BYTES:
                self._whole, self._bodies, self._places = False, [], []
        if batch.end.lsn != segment_end(start, self._segment_bytes):
            return None
        seen = Bodies(tuple(self._bodies), tuple(self._places), batch.context)
        self._bodies, self._places = [], []
        if batch.raw_bytes == self._segment_bytes:
            return None
        finished = Finished(batch.place.timeline, int(start))
        return finished, seen if self._whole else None


class BucketSegments:
    """Joins, and removes, one segment after the other in the background."""

    def __init__(
        self,
        run_blocking: RunBlocking,
        write_state: RunBlocking,
        memory_file: Path,
        *,
        grace_seconds: float,
        sealed: bool,
    ) -> None:
        """write_state: as run_blocking, one after the other.  sealed: objects can't be read again
        by who makes them."""
        self._run_blocking = run_blocking
        self._write_state = write_state
        self._memory_file = memory_file
        self._grace_seconds = grace_seconds
        self._sealed = sealed
        self._objects: BucketObjects | None = None
        self._seen: SegmentsSeen | None = None
        self._waiting: list[Finished] = []
        self._bodies: dict[Finished, Bodies] = {}
        self._parts: dict[Finished, list[str]] = {}
        """Keys of what is to be removed, as far as this process knows them."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def use(self, objects: BucketObjects) -> None:
        """A connection begins.  Another incarnation begins from nothing."""
        if self._objects is None or self._objects.keys != objects.keys:
            self._seen = SegmentsSeen(objects.segment_bytes)
            self._bodies.clear()
            self._parts.clear()
            self._waiting = self._recall(objects)
        self._objects = objects
        if self._task is None or self._task.done() or self._task.cancelling():
            self._task = asyncio.create_task(self._work())

    def stop(self) -> None:
        """Do nothing more until the next `use`; what a thread has begun goes on."""
        if self._task is not None:
            self._task.cancel()

    def stored(self, packed: PackedWal) -> None:
        assert self._seen is not None and self._objects is not None
        done = self._seen.stored(packed)
        if done is None or self._objects.segment_bytes > MAX_SEGMENT_BYTES:
            return
        finished, bodies = done
        kept_bytes = sum(len(body) for each in self._bodies.values() for body in each.bodies)
        if kept_bytes > MAX_KEPT_BYTES:
            bodies = None
        if bodies is not None:
            self._bodies[finished] = bodies
        elif self._sealed:
            return
        self._waiting.append(finished)
        self._changed.set()

    async def _work(self) -> None:
        while True:
            self._changed.clear()
            now = time.time()
            due = next((each for each in self._waiting if each.remove_at <= now), None)
            if due is None:
                await self._sleep(min((each.remove_at for each in self._waiting), default=None))
                continue
            objects = self._objects
            assert objects is not None
            try:
                await self._do(objects, due)
            except LogshipError as error:
                if objects.epoch.over is not None:
                    return
                log.warning("a finished segment stays in parts", **error.as_dict())
                self._forget(due)
            except Exception:
                log.exception("a bug: a finished segment stays in parts")
                self._forget(due)

    async def _sleep(self, until: float | None) -> None:
        try:
            async with asyncio.timeout(None if until is None else max(until - time.time(), 0.0)):
                await self._changed.wait()
        except TimeoutError:
            return

    # What is waiting is known to the loop alone; threads are given what they need of it.

    async def _do(self, objects: BucketObjects, due: Finished) -> None:
        await self._remember(objects)
        if due.remove_at:
            remove = partial(_remove, objects, due, self._parts.get(due, []))
            await patiently(self._run_blocking, remove, None)
        elif await self._join(objects, due):
            joined = msgspec.structs.replace(due, remove_at=time.time() + self._grace_seconds)
            bodies = self._bodies.get(due)
            if bodies is not None:
                self._parts[joined] = [objects.keys.wal(place) for place in bodies.places]
            self._waiting.append(joined)
        self._forget(due)
        await self._remember(objects)

    async def _join(self, objects: BucketObjects, due: Finished) -> bool:
        """False: it stays in parts."""
        bodies = self._bodies.get(due)
        if bodies is None and self._sealed:
            return False  # remembered by a process that had the bytes
        joined: list[bool] = []

        def join() -> None:
            joined.append(_join(objects, due, bodies))

        await patiently(self._run_blocking, join, None)
        return joined[-1]

    def _forget(self, due: Finished) -> None:
        if due in self._waiting:
            self._waiting.remove(due)
        self._bodies.pop(due, None)
        self._parts.pop(due, None)

    def _recall(self, objects: BucketObjects) -> list[Finished]:
        try:
            memory = json_decoder(_Memory).decode(self._memory_file.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, *UNREADABLE) as error:
            log.warning("what is known of joined segments can't be read", error=str(error))
            return []
        here = (objects.store.name, str(objects.keys.incarnation))
        return memory.segments if (memory.store, memory.incarnation) == here else []

    async def _remember(self, objects: BucketObjects) -> None:
        segments = self._waiting[-MAX_REMEMBERED:]
        memory = _Memory(objects.store.name, str(objects.keys.incarnation), segments)
        content = msgspec.json.encode(memory) + b"\n"
        try:
            await self._write_state(partial(durable.write_file, self._memory_file, content))
        except OSError as error:
            log.warning("what is known of joined segments can't be written", error=str(error))


# --- in a thread --------------------------------------------------------------------------


def _join(objects: BucketObjects, due: Finished, bodies: Bodies | None) -> bool:
    """False: the segment's objects do not make it up."""
    if bodies is None:
        raw, context = _fetch(objects, due)
    else:
        raw = decompress(b"".join(bodies.bodies), objects.segment_bytes, "a finished segment")
        context = bodies.context
    if context is not None:
        _put(objects, due, raw, context)
    return context is not None


def _remove(objects: BucketObjects, due: Finished, known: list[str]) -> None:
    """known: the keys of all its parts, if they are known."""
    if not _is_joined(objects, due):
        log.warning(
            "the parts of a segment stay: what they were joined to is not there any more",
            segment=f"{due.timeline}:{Lsn(due.start_lsn)}",
        )
        return
    keys = known or [key for key, _ in _list_parts(objects, due)]
    objects.epoch.confirm()
    kept = objects.store.delete(keys)
    log.debug("removed the parts of a segment", objects=len(keys) - len(kept))
    if kept:
        log.warning(
            "parts of a joined segment can't be removed", objects=len(kept), why=kept[0].why
        )


def _is_joined(objects: BucketObjects, segment: Finished) -> bool:
    key = objects.keys.segment(segment.timeline, segment.start_lsn, objects.segment_bytes)
    found = objects.store.describe(key)
    if found is None:
        return False
    place = Place(segment.timeline, Lsn(segment.start_lsn))
    head = read_head(found.metadata, place, f"{objects.store.name}: {key}")
    return head.raw_bytes == objects.segment_bytes


def _list_parts(objects: BucketObjects, segment: Finished) -> list[tuple[str, Place]]:
    """The spans of a segment, by a listing."""
    keys = objects.keys
    first = Place(segment.timeline, Lsn(segment.start_lsn))
    end = segment_end(segment.start_lsn, objects.segment_bytes)
    found = []
    for each in objects.store.listing(
        keys.wal_of(segment.timeline), start_after=keys.wal(first)[:-1]
    ):
        place = Place.parse(each.key.removeprefix(keys.all_wal))
        if place.lsn >= end:
            break
        if place >= first and each.size_bytes:  # a marker has no body, and stays
            found.append((each.key, place))
    return found


def _fetch(objects: BucketObjects, segment: Finished) -> tuple[bytes, Context | None]:
    """The raw bytes of a segment from its objects; no context: they do not make it up."""
    raw = bytearray()
    context = None
    for key, place in _list_parts(objects, segment):
        fetched = objects.store.get(key)
        if fetched is None or place.lsn != segment.start_lsn + len(raw):
            return b"", None
        where = f"{objects.store.name}: {key}"
        head = read_head(fetched.metadata, place, where)
        raw += unpack(fetched.data, head, objects.segment_bytes, where)
        context = Context(head.flush_lsn, head.flush_timeline, head.profile)
    return (bytes(raw), context) if len(raw) == objects.segment_bytes else (b"", None)


def _put(objects: BucketObjects, segment: Finished, raw: bytes, context: Context) -> None:
    place = Place(segment.timeline, Lsn(segment.start_lsn))
    head = objects.head(place, context, raw_bytes=len(raw), crc32c=crc32c.crc32c(raw))
    body = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress(raw)
    key = objects.keys.segment(place.timeline, place.lsn, objects.segment_bytes)
    objects.epoch.confirm()
    try:
        objects.store.put(key, objects.seal(body), metadata_of(head), only_if_absent=True)
    except ConditionFailedError:
        found = objects.store.describe(key)
        where = f"{objects.store.name}: {key}"
        if found is None:
            raise gone(where) from None
        if read_head(found.metadata, place, where).crc32c != head.crc32c:
            raise

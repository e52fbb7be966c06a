"""Known mistakes, to be switched on one at a time: the simulation must find each.

Every one changes a line or two of the real code, in the way in which somebody could really
have written it.  `WITHIN_SEEDS` of test_mistakes.py says within how many seeds each has to
show; measured numbers are in docs/simulation.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import crc32c
import msgspec

import applier.operations.instance as instance_module
from applier.operations.record import load_record
from applier.operations.sender import Sender
from applier.receivers import Positions
from applier.store import Store, recovery
from applier.store.core import StoreCore
from applier.store.evidence import Evidence
from applier.store.positions import ChainPositions, Extent, Fits, Gap
from applier.store.segments import SegmentFiles
from logship import wal
from logship.link.wal_inbox import WalInbox
from logship.lsn import Lsn, Position
from shipper.sources.stream import StreamSource

patch = mock.patch.object


def ack_before_fsync() -> Any:
    """What was written is reported as durable."""
    honest = instance_module.Instance.positions

    def positions(self: Any) -> Positions | None:
        found = honest(self)
        return None if found is None else found._replace(durable=found.received)

    return patch(instance_module.Instance, "positions", positions)


def ack_segment_end_when_idle() -> Any:
    """After a while without WAL the whole segment is reported, as pghoard did."""

    async def report_regularly(self: Any) -> None:
        while True:
            before = self._reported
            await asyncio.sleep(1.0)
            if before == self._reported and before[1]:
                segment_bytes = self._identity.profile.wal_segment_size
                end = wal.segment_end(before[1] - 1, segment_bytes)
                self._reported = (end, end, before[2])
            self._send_status()

    return patch(StreamSource, "_report_regularly", report_regularly)


def accept_other_bytes() -> Any:
    """Bytes that are held already are not compared with those that come again."""
    return patch(Evidence, "compare", lambda *_: None)


def accept_a_gap() -> Any:
    """A span that starts beyond the end is taken for the next one."""
    honest = ChainPositions.accept
    honest_take = WalInbox.take

    def accept(self: Any, timeline: int, start: int, size: int, histories: Any) -> Any:
        verdict = honest(self, timeline, start, size, histories)
        inside = start % self.segment_bytes and timeline == self.written.timeline
        return Fits() if isinstance(verdict, Gap) and inside else verdict

    def advance(self: Any, timeline: int, start: int, end: int) -> None:
        first = self._extents[timeline].start if timeline in self._extents else Lsn(start)
        self._extents[timeline] = Extent(first, Lsn(end))
        self._timeline = timeline

    def opens_segment(self: Any, timeline: int, start: int) -> bool:
        current = self._current
        first = wal.segment_start(start, self._line.segment_bytes)
        return current is None or (current.timeline, current.start_lsn) != (timeline, first)

    def take(self: Any, span: Any, payload: Any, now: float) -> Any:
        here = Position(span.timeline, Lsn(span.start_lsn))
        if self.expected is not None and here > self.expected:
            self.expected = here
        return honest_take(self, span, payload, now)

    return _all(
        patch(ChainPositions, "accept", accept),
        patch(ChainPositions, "advance", advance),
        patch(SegmentFiles, "opens_segment", opens_segment),
        patch(WalInbox, "take", take),
    )


def forget_the_fence() -> Any:
    """The fence is in memory only: a restart begins without it."""

    def forgetful(directory: Any, name: str) -> Any:
        return msgspec.structs.replace(load_record(directory, name), fence=None)

    return patch(instance_module, "load_record", forgetful)


def trust_page_headers() -> Any:
    """Recovery takes the WAL to end where page headers stop to look right."""

    def trusted(self: Any, fd: int, name: str, timeline: int, lsn: Lsn) -> recovery.Tail:
        slots = self._slots(fd, timeline, lsn)
        size = self._line.segment_bytes
        data = self._disk.pread(fd, size, 0)
        end = 0
        while end < size:
            page = data[end : end + wal.WAL_PAGE_BYTES]
            try:
                wal.check_pages(page, lsn + end, timeline, self._line)
            except Exception:
                break
            if not any(page[:24]):
                break
            end += wal.WAL_PAGE_BYTES
        index, slot = max(slots.items(), key=lambda item: item[1].sequence)
        known = slot.end_lsn - lsn
        end = max(end - wal.WAL_PAGE_BYTES, known) if end < size else end
        crc = crc32c.crc32c(data[:end])
        return recovery.Tail(timeline, lsn, Lsn(lsn + end), crc, slot.sequence, index)

    return patch(recovery.Recovery, "_trusted", trusted)


def resume_from_received() -> Any:
    """A new connection goes on from what was written, durable or not."""

    async def do_not_wait(self: Any) -> None:
        self._check_open()

    honest = instance_module.Instance.hello

    async def hello(self: Any, *arguments: Any) -> Any:
        resume = await honest(self, *arguments)
        return resume._replace(position=self.store.written)

    return _all(
        patch(instance_module.Instance, "hello", hello), patch(Store, "settle", do_not_wait)
    )


def listen_to_whom_was_left_behind() -> Any:
    """What an old primary says counts as if the newest WAL were its own."""
    return patch(Sender, "is_left_behind", lambda self, timeline: False)


def drop_the_history() -> Any:
    """A timeline's history is remembered and never written to disk."""

    def add_history(self: Any, timeline: int, content: bytes) -> None:
        self.histories[timeline] = wal.parse_history(timeline, content)
        self.history_contents[timeline] = content

    return patch(StoreCore, "add_history", add_history)


@contextlib.contextmanager
def _all(*patches: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield


MISTAKES: dict[str, Callable[[], Any]] = {
    make.__name__: make
    for make in (
        ack_before_fsync,
        ack_segment_end_when_idle,
        accept_other_bytes,
        accept_a_gap,
        forget_the_fence,
        trust_page_headers,
        resume_from_received,
        drop_the_history,
        listen_to_whom_was_left_behind,
    )
}

"""What every source must do; a new implementation subclasses `SourceContract` and plugs in.

The subclass gives a `rig` fixture: something that can make WAL, switch timelines, and build
sources over it.  It is not collected by itself.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import pytest

from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import segment_start
from shipper.sources import HistoryFile, Source, SourceIdentity, WalBytes
from shipper.sources.environment import EnvironmentWatch
from tests.support.waiting import wait_until

PATIENCE_SECONDS = 60.0


class SourceRig(Protocol):
    """A cluster whose WAL a source under test reads."""

    segment_bytes: int

    def make_source(self, *, will_switch: bool = False) -> Source:
        """will_switch: `switch_timeline` will be called, which is not free to prepare."""

    def write(self) -> Lsn:
        """Commit something; returns the flush position after it."""

    def wal_file(self, timeline: int, lsn: int) -> Path:
        """The cluster's own file of that segment."""

    def switch_timeline(self) -> None:
        """The cluster that sources read goes on, on a new timeline."""

    def restart(self) -> None: ...

    def kept_from(self) -> Lsn | None:
        """From where the cluster keeps WAL for the source (its slot); None: nothing kept."""


class Collected:
    """What a source gave, checked for order as it comes."""

    def __init__(self, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.histories: dict[int, bytes] = {}
        self.spans: list[WalBytes] = []

    def add(self, event: HistoryFile | WalBytes) -> None:
        if isinstance(event, HistoryFile):
            self.histories[event.timeline] = event.content
            return
        assert event.size_bytes == sum(len(chunk) for chunk in event.chunks) > 0
        inside = segment_start(event.end_lsn - 1, self.segment_bytes)
        assert inside == segment_start(event.start_lsn, self.segment_bytes), "crosses a segment"
        if event.timeline > 1:
            assert event.timeline in self.histories, "WAL before its history"
        if self.spans:
            last = self.spans[-1]
            if last.timeline == event.timeline:
                assert event.start_lsn == last.end_lsn, "a hole"
            else:
                assert event.timeline > last.timeline
                assert event.start_lsn % self.segment_bytes == 0
                assert event.start_lsn <= last.end_lsn
        self.spans.append(event)

    @property
    def end(self) -> Position:
        return Position(self.spans[-1].timeline, self.spans[-1].end_lsn)

    def check_against(self, rig: SourceRig) -> None:
        """Every byte is the byte in the cluster's own files."""
        for span in self.spans:
            path = rig.wal_file(span.timeline, span.start_lsn)
            offset = span.start_lsn % self.segment_bytes
            with path.open("rb") as file:
                file.seek(offset)
                assert file.read(span.size_bytes) == b"".join(span.chunks), str(span.start_lsn)


async def read_until(source: Source, collected: Collected, timeline: int, lsn: int) -> None:
    """Read until the source has given `timeline` up to `lsn`."""

    async def reading() -> None:
        while not (collected.spans and collected.end >= (timeline, lsn)):
            for event in await source.read(1 << 20):
                collected.add(event)

    await asyncio.wait_for(reading(), PATIENCE_SECONDS)


async def start_again(source: Source, resume: Position) -> None:
    """As an agent does: the walsender of the stream before may have the slot for a moment yet."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await source.start(resume, frozenset())
            except LogshipError as error:
                if error.code is not Code.SLOT_IN_USE:
                    raise
                await source.open()
            else:
                return


def first_position(identity: SourceIdentity) -> Position:
    start = segment_start(identity.flush_lsn, identity.profile.wal_segment_size)
    return Position(identity.timeline, start)


class SourceContract:
    async def test_gives_the_clusters_own_bytes_without_holes(self, rig: SourceRig) -> None:
        source = rig.make_source()
        start = first_position(await source.open())
        collected = Collected(rig.segment_bytes)
        await source.start(start, frozenset())
        for _ in range(3):
            await read_until(source, collected, 1, rig.write())
        assert collected.spans[0].start_lsn == start.lsn
        collected.check_against(rig)
        await source.close()

    async def test_resumes_exactly_where_it_is_asked_to(self, rig: SourceRig) -> None:
        source = rig.make_source()
        start = first_position(await source.open())
        collected = Collected(rig.segment_bytes)
        await source.start(start, frozenset())
        await read_until(source, collected, 1, rig.write())
        rig.write()
        middle = Position(1, Lsn(collected.end.lsn - 1234))
        again = Collected(rig.segment_bytes)
        await start_again(source, middle)
        await read_until(source, again, 1, rig.write())
        assert again.spans[0].start_lsn == middle.lsn
        again.check_against(rig)
        await source.close()

    async def test_comes_back_after_the_cluster_restarts(
        self, rig: SourceRig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A first hello does not wait for what surrounds a primary that is slow to tell it.
        monkeypatch.setitem(EnvironmentWatch.open.__kwdefaults__, "within_seconds", None)
        source = rig.make_source()
        identity = await source.open()
        assert identity.profile.environment is not None and identity.profile.environment.is_complete
        start = first_position(identity)
        collected = Collected(rig.segment_bytes)
        await source.start(start, frozenset())
        await read_until(source, collected, 1, rig.write())
        await asyncio.to_thread(rig.restart)
        assert (await source.open()).profile == identity.profile
        await source.start(collected.end, frozenset())
        await read_until(source, collected, 1, rig.write())
        collected.check_against(rig)
        await source.close()

    async def test_follows_a_timeline_switch_history_first(self, rig: SourceRig) -> None:
        source = rig.make_source(will_switch=True)
        start = first_position(await source.open())
        collected = Collected(rig.segment_bytes)
        await source.start(start, frozenset())
        await read_until(source, collected, 1, rig.write())
        await asyncio.to_thread(rig.switch_timeline)
        await source.open()
        await source.start(collected.end, frozenset())
        await read_until(source, collected, 2, rig.write())
        assert collected.histories.keys() == {2}
        assert [span.timeline for span in collected.spans][-1] == 2
        collected.check_against(rig)
        await source.close()

    async def test_a_known_history_is_not_sent_again(self, rig: SourceRig) -> None:
        source = rig.make_source(will_switch=True)
        start = first_position(await source.open())
        await asyncio.to_thread(rig.switch_timeline)
        await source.open()
        await source.start(start, frozenset({2}))
        collected = Collected(rig.segment_bytes)
        collected.histories[2] = b"known"
        await read_until(source, collected, 2, rig.write())
        assert collected.histories[2] == b"known"
        await source.close()

    async def test_wal_is_kept_above_what_was_acknowledged_durable(self, rig: SourceRig) -> None:
        source = rig.make_source()
        start = first_position(await source.open())
        collected = Collected(rig.segment_bytes)
        await source.start(start, frozenset())
        await read_until(source, collected, 1, rig.write())
        await read_until(source, collected, 1, rig.write())
        durable = Position(1, Lsn(collected.spans[0].end_lsn))
        source.acknowledge(collected.end, durable, Lsn(0))
        rig.write()
        await asyncio.to_thread(
            wait_until,
            lambda: rig.kept_from() == durable.lsn,
            PATIENCE_SECONDS,
            f"WAL is kept from {durable.lsn}",
        )
        await source.close()
        kept = rig.kept_from()
        assert kept is not None and kept <= durable.lsn

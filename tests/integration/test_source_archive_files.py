"""Source `archive` over real directories, with WAL as servers write it, and no server.

The primary is away in all of these: what is in the outbox is shipped by what was last known.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from logship import durable
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.threads import run_to_the_end
from logship.wal import History, HistoryEntry, WalLine, history_name, segment_name
from shipper.sources import HistoryFile, WalBytes
from shipper.sources.archive import ArchiveSource, files, notices, removal, settling
from shipper.sources.archive.names import partial_name
from tests.integration.source_contract import Collected, read_until
from tests.support.link_frames import at, profile
from tests.support.waiting import free_port, until, wait_until
from tests.support.wal_factory import MEGABYTE, SYSTEM_IDENTIFIER, WalFactory, wal_line

pytestmark = pytest.mark.integration

S = MEGABYTE
FORK = 3 * S + 5000
PROFILE = profile(system_identifier=SYSTEM_IDENTIFIER, wal_segment_size=S)
TWO = History(2, (HistoryEntry(1, Lsn(FORK)),))
TWO_TEXT = f"1\t{Lsn(FORK)}\tno recovery target specified\n".encode()


class Box:
    """An outbox, its archiver, and sources over it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.outbox = directory / "outbox"
        self.outbox.mkdir()
        self.factory = WalFactory(wal_line(), {2: TWO})
        self.sources: list[ArchiveSource] = []

    def source(
        self, *, keep: bool = False, rescan_seconds: float = 0.1, gap_seconds: float = 60.0
    ) -> ArchiveSource:
        made = ArchiveSource(
            f"host=127.0.0.1 port={free_port()} user=x",
            outbox=self.outbox,
            memory_file=self.directory / "outbox.json",
            application_name="logship_test",
            keep=keep,
            rescan_seconds=rescan_seconds,
            gap_seconds=gap_seconds,
            connect_timeout_seconds=2,
            last_profile=PROFILE,
            last_timeline=1,
        )
        self.sources.append(made)
        return made

    async def started(self, position: Position | None = None, **options: Any) -> ArchiveSource:
        made = self.source(**options)
        await made.open()
        await made.start(position or at(1, S), frozenset())
        return made

    def segment(self, timeline: int, number: int) -> bytes:
        return self.factory.wal(timeline, number * S, (number + 1) * S)

    def put(self, name: str, content: bytes) -> Path:
        """As basic_archive does: whole when it gets its name."""
        temporary = self.outbox / f"archtemp.{name}"
        temporary.write_bytes(content)
        path = self.outbox / name
        temporary.rename(path)
        return path

    def archive(self, timeline: int, *numbers: int) -> None:
        for number in numbers:
            self.put(segment_name(timeline, number * S, S), self.segment(timeline, number))

    def names(self) -> set[str]:
        return set(os.listdir(self.outbox))


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    made = Box(tmp_path)
    yield made
    for source in made.sources:
        await source.close()


def named(timeline: int, number: int) -> str:
    return segment_name(timeline, number * S, S)


async def collect(source: ArchiveSource, timeline: int, lsn: int) -> Collected:
    collected = Collected(S)
    await read_until(source, collected, timeline, lsn)
    return collected


def check(box: Box, collected: Collected) -> None:
    for span in collected.spans:
        wanted = box.factory.wal(span.timeline, span.start_lsn, span.end_lsn)
        assert b"".join(span.chunks) == wanted, str(span.start_lsn)


@contextlib.asynccontextmanager
async def reading(source: ArchiveSource) -> AsyncIterator[list[WalBytes | HistoryFile]]:
    """Read in the background, for as long as nothing comes."""
    came: list[WalBytes | HistoryFile] = []

    async def read() -> None:
        while True:
            came.extend(await source.read(S))

    task = asyncio.create_task(read())
    try:
        yield came
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- order ------------------------------------------------------------------------------------


async def test_says_that_the_primary_is_away_and_ships_all_the_same(box: Box) -> None:
    box.archive(1, 1, 2)
    source = box.source()
    identity = await source.open()
    assert not source.reachable
    assert identity.profile == PROFILE
    assert identity.flush_lsn == 3 * S
    await source.start(at(1, S), frozenset())
    check(box, await collect(source, 1, 3 * S))
    with pytest.raises(LogshipError) as caught:
        await source.reserve()
    assert caught.value.code is Code.PRIMARY_UNREACHABLE


async def test_the_loop_looks_at_no_file_itself(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    look = files.look
    looked: list[tuple[str, bool]] = []

    def noted(path: Path) -> object:
        looked.append((path.name, threading.current_thread() is threading.main_thread()))
        return look(path)

    monkeypatch.setattr(files, "look", noted)
    box.put(history_name(2), TWO_TEXT)
    box.archive(1, 1, 2)
    box.archive(2, 3)
    await collect(await box.started(), 2, 4 * S)
    assert {name for name, _ in looked} > {history_name(2), named(2, 3)}
    assert not [name for name, is_in_the_loop in looked if is_in_the_loop]


@pytest.mark.parametrize("last", ["partial", "whole", "neither"])
@pytest.mark.parametrize("seed", range(3))
async def test_a_switch_in_any_order_of_arrival(box: Box, last: str, seed: int) -> None:
    files = {named(1, number): box.segment(1, number) for number in (1, 2)}
    files |= {named(2, number): box.segment(2, number) for number in (3, 4, 5)}
    files[history_name(2)] = TWO_TEXT
    old = box.segment(1, 3)
    if last == "partial":  # past the switch point is what the file was recycled from
        cut = FORK - 3 * S
        files[partial_name(1, 3 * S, S)] = old[:cut] + box.segment(1, 0)[cut:]
    elif last == "whole":
        files[named(1, 3)] = old
    source = await box.started()
    order = sorted(files)
    random.Random(seed).shuffle(order)
    if last == "whole":  # else its bytes past the fork are shipped before the fork is known
        order.sort(key=lambda name: not name.endswith(".history"))
    collected = Collected(S)
    async with reading(source) as came:
        for name in order:
            box.put(name, files[name])
            await asyncio.sleep(0.01 * (seed % 2))
        await until(
            lambda: came and isinstance(came[-1], WalBytes) and came[-1].end_lsn == 6 * S, "all"
        )
    for event in came:
        collected.add(event)
    assert collected.histories == {2: TWO_TEXT}
    ends = {span.timeline: span.end_lsn for span in collected.spans}
    assert ends == {1: FORK, 2: 6 * S}
    assert collected.spans[0].start_lsn == S
    check(box, collected)
    source.acknowledge(collected.end, collected.end, Lsn(0))
    left = {history_name(2)} | ({named(1, 3)} if last == "whole" else set())
    await until(lambda: box.names() == left, "what is durable goes")


async def test_a_far_end_that_is_made_anew_is_given_the_history_too(box: Box) -> None:
    box.put(history_name(2), TWO_TEXT)
    box.archive(2, 3, 4)
    source = await box.started(at(2, 4 * S))
    await collect(source, 2, 5 * S)
    source.acknowledge(at(2, 5 * S), at(2, 5 * S), Lsn(0))
    await until(lambda: box.names() == {history_name(2)}, "what is durable goes")
    await source.close()
    box.archive(2, 5)
    again = await box.started(at(2, 5 * S))
    assert (await collect(again, 2, 6 * S)).histories == {2: TWO_TEXT}


async def test_a_missing_segment_is_waited_for_then_named_and_taken_when_it_comes(
    box: Box,
) -> None:
    box.archive(1, 1, 3)
    source = await box.started(gap_seconds=0.3)
    await collect(source, 1, 2 * S)
    with pytest.raises(LogshipError) as caught:
        await asyncio.wait_for(source.read(S), 20)
    assert caught.value.code is Code.WAL_REMOVED
    assert caught.value.retryable
    assert named(1, 2) in caught.value.what
    box.archive(1, 2)
    await source.start(at(1, 2 * S), frozenset())
    check(box, await collect(source, 1, 4 * S))


async def test_nothing_missing_is_no_gap(box: Box) -> None:
    box.archive(1, 1)
    source = await box.started(gap_seconds=0.2)
    await collect(source, 1, 2 * S)
    async with reading(source) as came:
        for _ in range(10):
            await asyncio.sleep(0.05)
            assert came == []


# --- files that are not what they seem --------------------------------------------------------


async def test_a_file_that_is_written_under_its_own_name_is_taken_when_it_is_whole(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "SETTLE_SECONDS", 60.0)  # that it is closed is what tells
    source = await box.started()
    content = box.segment(1, 1)
    async with reading(source) as came:
        with (box.outbox / named(1, 1)).open("wb", buffering=0) as file:
            for start in range(0, S, S // 8):
                file.write(content[start : start + S // 8])
                await asyncio.sleep(0.03)
                assert came == []
        await until(lambda: bool(came), "it is closed")
        assert isinstance(came[0], WalBytes)
        assert b"".join(came[0].chunks) == content


async def test_a_file_that_had_its_size_before_its_contents_waits(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "PADDED_SETTLE_SECONDS", 60.0)
    content = box.segment(1, 1)
    path = box.outbox / named(1, 1)
    with path.open("wb", buffering=0) as file:
        file.truncate(S)
        file.write(content[: S // 2])
        source = await box.started()
        async with reading(source) as came:
            for _ in range(20):  # longer than SETTLE_SECONDS
                await asyncio.sleep(0.1)
            assert came == []
            file.write(content[S // 2 :])
            file.close()
            await until(lambda: bool(came), "it is closed")
    assert isinstance(came[0], WalBytes)
    assert b"".join(came[0].chunks) == content


@pytest.mark.parametrize(
    "kind", ["foreign cluster", "other major", "noise", "directory", "link", "pipe"]
)
async def test_what_is_not_wal_of_this_cluster_is_left_alone_and_said(box: Box, kind: str) -> None:
    name = named(1, 1)
    line = wal_line()
    wrong = {
        "foreign cluster": WalFactory(WalLine(line.system_identifier + 1, 17, S)).wal(1, S, 2 * S),
        "other major": WalFactory(wal_line(16)).wal(1, S, 2 * S),
        "noise": random.Random(1).randbytes(S),
    }
    if kind == "directory":
        (box.outbox / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(box.outbox / name)
    elif kind == "link":
        (box.directory / "elsewhere").write_bytes(box.segment(1, 1))
        (box.outbox / name).symlink_to(box.directory / "elsewhere")
    else:
        box.put(name, wrong[kind])
    source = await box.started()
    with capture_logs() as logs:
        async with reading(source) as came:
            if kind in wrong or kind == "link":
                await until(lambda: any(e.get("name") == name for e in logs), "it is said")
            for _ in range(10):
                await asyncio.sleep(0.02)
            assert came == []
            if kind == "directory":
                (box.outbox / name).rmdir()
            box.archive(1, 1)
            await until(lambda: bool(came), "the right one comes")
    if kind == "foreign cluster":
        assert any(e.get("code") == str(Code.SYSTEM_IDENTIFIER_MISMATCH) for e in logs)


async def test_other_names_are_counted_said_once_and_stay(box: Box) -> None:
    strangers = {"README", "000000010000000000000001.gz", "00000001000000000000000Z", "lost+found"}
    for name in strangers:
        (box.outbox / name).write_bytes(b"x")
    (box.outbox / "archtemp.000000010000000000000007.99.1").write_bytes(b"x")
    box.archive(1, 1)
    with capture_logs() as logs:
        source = await box.started()
        collected = await collect(source, 1, 2 * S)
        source.acknowledge(collected.end, collected.end, Lsn(0))
        await until(lambda: named(1, 1) not in box.names(), "the segment goes")
    assert strangers < box.names()
    (said,) = [e for e in logs if "not WAL" in e["event"]]
    assert said["count"] == 4


async def test_a_history_cut_short_is_not_read(box: Box) -> None:
    box.archive(1, 1, 2)
    box.archive(2, 3)
    (box.outbox / history_name(2)).write_bytes(TWO_TEXT[:8])  # a switch point, and not the one
    source = await box.started()
    await collect(source, 1, 3 * S)
    async with reading(source) as came:
        for _ in range(10):
            await asyncio.sleep(0.02)
        assert came == []
        (box.outbox / history_name(2)).write_bytes(TWO_TEXT)
        await until(lambda: len(came) >= 3, "the whole one")
    assert came[0] == HistoryFile(2, TWO_TEXT)


async def test_files_that_vanish_are_waited_for(box: Box) -> None:
    box.archive(1, 1, 2)
    source = box.source()
    await source.open()
    (box.outbox / named(1, 1)).unlink()
    await source.start(at(1, S), frozenset())
    async with reading(source) as came:
        for _ in range(5):
            await asyncio.sleep(0.02)
        assert came == []
        box.archive(1, 1)
        await until(lambda: len(came) == 2, "it came back")


# --- other bytes under a name that was shipped ------------------------------------------------


def other_bytes(box: Box, number: int) -> bytes:
    content = bytearray(box.segment(1, number))
    content[-100] ^= 0xFF
    return bytes(content)


async def test_other_bytes_under_a_shipped_name_are_refused_and_kept(box: Box) -> None:
    box.archive(1, 1, 2)
    source = await box.started()
    collected = await collect(source, 1, 3 * S)
    source.acknowledge(collected.end, collected.end, Lsn(0))
    await until(lambda: not box.names(), "both go")
    box.put(named(1, 1), other_bytes(box, 1))
    box.archive(1, 3)
    with pytest.raises(LogshipError) as caught:
        for _ in range(3):
            await asyncio.wait_for(source.read(S), 20)
    assert caught.value.code is Code.WAL_CONFLICT
    assert named(1, 1) in caught.value.what
    await source.start(at(1, 3 * S), frozenset())
    with pytest.raises(LogshipError, match="other bytes"):
        await source.read(S)
    source.acknowledge(at(1, 4 * S), at(1, 4 * S), Lsn(0))
    await until(lambda: named(1, 3) not in box.names(), "what is durable goes")
    assert (box.outbox / named(1, 1)).read_bytes() == other_bytes(box, 1)
    (box.outbox / named(1, 1)).unlink()
    box.archive(1, 3)
    await source.start(at(1, 3 * S), frozenset())
    check(box, await collect(source, 1, 4 * S))


async def test_a_restart_remembers_what_was_shipped(box: Box) -> None:
    box.archive(1, 1, 2)
    source = await box.started()
    collected = await collect(source, 1, 3 * S)
    source.acknowledge(collected.end, collected.end, Lsn(0))
    await until(lambda: not box.names(), "both go")
    await source.close()
    box.put(named(1, 1), box.segment(1, 1))  # archived again after a crash of the server
    box.put(named(1, 2), other_bytes(box, 2))
    again = await box.started(at(1, 3 * S))
    with pytest.raises(LogshipError) as caught:
        await asyncio.wait_for(again.read(S), 20)
    assert caught.value.code is Code.WAL_CONFLICT
    again.acknowledge(at(1, 3 * S), at(1, 3 * S), Lsn(0))
    await until(lambda: box.names() == {named(1, 2)}, "the same bytes go, the others stay")


async def test_what_is_archived_again_goes_again_with_no_further_ack(box: Box) -> None:
    box.archive(1, 1, 2)
    source = await box.started()
    collected = await collect(source, 1, 3 * S)
    source.acknowledge(collected.end, collected.end, Lsn(0))
    await until(lambda: not box.names(), "both go")
    async with reading(source) as came:
        box.archive(1, 2)
        await until(lambda: not box.names(), "it goes again")
        assert came == []


async def test_one_that_can_not_be_removed_is_tried_again_though_others_could(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "REMIND_SECONDS", 2.0)
    box.archive(1, 1, 2)
    source = await box.started()
    collected = await collect(source, 1, 3 * S)
    remove, asked = removal.Removal._remove_shipped, Counter[str]()
    gone: list[str] = []

    def refused(self: removal.Removal, path: Path) -> object:
        name = path.name
        asked[name] += 1
        if name == named(1, 1) and not gone:
            return "Permission denied"
        outcome = removal._TOO_YOUNG if asked[name] == 1 else remove(self, path)
        if outcome is None:
            gone.append(name)
        return outcome

    monkeypatch.setattr(removal.Removal, "_remove_shipped", refused)
    source.acknowledge(collected.end, collected.end, Lsn(0))
    await until(lambda: len(gone) == 2, "both go", 60)
    assert gone == [named(1, 2), named(1, 1)], "the other first, then this one too"
    assert not box.names()


async def test_what_looks_as_if_never_written_may_be_on_its_way_from_a_host_ahead_of_ours(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "PADDED_SETTLE_SECONDS", 2.0)
    now = time.time
    monkeypatch.setattr("shipper.sources.archive.removal.time.time", lambda: now() - 3600)
    box.archive(1, 1, 2)
    box.put(partial_name(1, 3 * S, S), box.segment(1, 3))
    box.put(history_name(2), TWO_TEXT)
    box.archive(2, 3)
    path = box.outbox / named(1, 4)
    with path.open("wb", buffering=0) as file:
        file.truncate(S)
        source = await box.started()
        collected = await collect(source, 2, 4 * S)
        source.acknowledge(collected.end, collected.end, Lsn(0))
        await until(lambda: named(2, 3) not in box.names(), "what is durable goes")
        file.write(box.segment(1, 4))  # the old server went on
    with capture_logs() as logs:
        await until(lambda: any("past the end" in each["event"] for each in logs), "it is seen")
    assert box.names() == {named(1, 4), history_name(2)}


async def test_what_comes_back_while_it_is_removed_is_not_forgotten(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await box.started(rescan_seconds=600)
    box.archive(1, 1)
    collected = await collect(source, 1, 2 * S)
    remove = removal.Removal._remove_shipped
    came_back: list[str] = []

    def slowly(self: removal.Removal, path: Path) -> object:
        name = path.name
        outcome = remove(self, path)
        if outcome is None and not came_back:
            came_back.append(name)
            box.archive(1, 1)
            assert source._outbox is not None
            settling = source._outbox._settling
            wait_until(lambda: name in settling._whole, 30, "it is noticed")
        return outcome

    monkeypatch.setattr(removal.Removal, "_remove_shipped", slowly)
    async with reading(source):
        source.acknowledge(collected.end, collected.end, Lsn(0))
        await until(lambda: came_back and not box.names(), "it goes again")


async def test_a_segment_that_changes_while_it_is_shipped_is_not_mixed(box: Box) -> None:
    box.archive(1, 1)
    source = await box.started()
    half = await source.read(S // 2)
    assert isinstance(half[0], WalBytes)
    content = other_bytes(box, 1)
    with (box.outbox / named(1, 1)).open("r+b") as file:
        file.write(content)
    with pytest.raises(LogshipError) as caught:
        for _ in range(20):
            await asyncio.wait_for(source.read(S // 2), 20)
    assert caught.value.code is Code.WAL_CONFLICT


# --- removing and keeping ---------------------------------------------------------------------


async def test_nothing_goes_before_it_is_durable(box: Box) -> None:
    box.archive(1, 1, 2, 3)
    source = await box.started()
    collected = await collect(source, 1, 4 * S)
    source.acknowledge(collected.end, at(1, 3 * S - 1), Lsn(0))
    await until(lambda: named(1, 1) not in box.names(), "the first goes")
    for _ in range(10):
        await asyncio.sleep(0.02)
    assert box.names() == {named(1, 2), named(1, 3)}
    await source.close()
    again = await box.started(at(1, 3 * S - 1))
    for _ in range(10):
        await asyncio.sleep(0.02)
    assert box.names() == {named(1, 2), named(1, 3)}, "a restart knows of no ack"
    again.acknowledge(at(1, 3 * S), at(1, 3 * S), Lsn(0))
    await until(lambda: box.names() == {named(1, 3)}, "the second goes")


async def test_what_a_promoted_server_never_wrote_of_its_old_timeline_goes(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "PADDED_SETTLE_SECONDS", 1.5)
    recycled = box.segment(1, 0)
    box.archive(1, 1, 2)
    box.put(named(1, 3), recycled)
    box.put(partial_name(1, 3 * S, S), box.segment(1, 3))
    box.put(history_name(2), TWO_TEXT)
    box.archive(2, 3, 4)
    box.put(named(1, 4), recycled)
    box.put(named(1, 5), bytes(S))
    box.archive(1, 6, 7)  # the old server went on
    with capture_logs() as logs:
        source = await box.started()
        collected = await collect(source, 2, 5 * S)
        check(box, collected)
        source.acknowledge(collected.end, collected.end, Lsn(0))
        left = {history_name(2), named(1, 6), named(1, 7)}
        await until(lambda: box.names() == left, "only WAL and the history stay", 60)
        box.put(named(2, 4), recycled)  # under a name that was shipped
        async with reading(source) as came:
            await until(lambda: box.names() == left, "it goes as well", 60)
            box.archive(2, 5)
            await until(lambda: bool(came), "it is no conflict")
    assert not [each for each in logs if each["log_level"] == "error"]
    said = [each for each in logs if "past the end of its timeline" in each["event"]]
    assert (said[-1]["count"], said[-1]["example"]) == (2, named(1, 6))
    assert len(said) <= 2, "when there are more, and not again"


async def test_what_was_never_written_is_no_error_while_a_history_is_on_its_way(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.archive(1, 1, 2)
    source = await box.started()
    await collect(source, 1, 3 * S)
    looked: list[str] = []

    def open_segment(path: Path, *of: Any) -> files.Checked | None:
        looked.append(path.name)
        return real(path, *of)

    real = files.open_segment
    monkeypatch.setattr(files, "open_segment", open_segment)
    box.put(partial_name(1, 3 * S, S), box.segment(1, 3))
    box.archive(2, 3)
    with capture_logs() as logs:
        async with reading(source) as came:
            with (box.outbox / history_name(2)).open("wb") as history:
                history.write(TWO_TEXT)
                history.flush()
                box.put(named(1, 3), box.segment(1, 0))
                await until(lambda: looked, "it was looked at")
            await until(lambda: len(came) >= 3, "the history, and WAL to the switch and on")
    assert not [each for each in logs if each["log_level"] == "error"]


async def test_what_could_not_be_removed_or_noted_is_tried_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "REMIND_SECONDS", 0.3)
    box.archive(1, 1, 2)
    source = await box.started()
    collected = await collect(source, 1, 3 * S)
    memory = box.directory / "outbox.json"
    memory.mkdir()  # can't be replaced by a file
    source.acknowledge(collected.end, collected.end, Lsn(0))
    with capture_logs() as logs:
        await until(lambda: any("can't note" in each["event"] for each in logs), "it is said")
        assert box.names() == {named(1, 1), named(1, 2)}
        memory.rmdir()
        await until(lambda: not box.names(), "with no further ack", 60)


async def test_a_thread_that_could_not_be_started_ends_no_removal(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "REMIND_SECONDS", 0.3)
    box.archive(1, 1, 2)
    source = await box.started()
    collected = await collect(source, 1, 3 * S)
    refused: list[str] = []

    async def refuse_once(threads: object, work: Callable[[], object]) -> object:
        if not refused:
            refused.append("once")
            raise RuntimeError("can't start new thread")
        return await run_to_the_end(None, work)

    monkeypatch.setattr(removal, "run_to_the_end", refuse_once)
    source.acknowledge(collected.end, collected.end, Lsn(0))
    await until(lambda: not box.names(), "with no further ack", 60)


async def test_a_source_begins_anew_once_what_it_remembers_is_written(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = durable.write_file
    steps: list[str] = []
    goes_on = threading.Event()

    def written(path: Path, content: bytes) -> None:
        steps.append("write")
        assert goes_on.wait(30), "it was waited for"
        write(path, content)
        steps.append("done")

    monkeypatch.setattr(durable, "write_file", written)
    box.archive(1, 1, 2)
    source = await box.started()
    await source.read(S)
    source.acknowledge(at(1, 2 * S), at(1, 2 * S), Lsn(0))
    await until(lambda: steps == ["write"], "it writes")

    async def go_on() -> None:
        await source.start(at(1, 2 * S), frozenset())
        await collect(source, 1, 3 * S)
        source.acknowledge(at(1, 3 * S), at(1, 3 * S), Lsn(0))
        await until(lambda: not box.names(), "both go")

    going_on = asyncio.create_task(go_on())
    await asyncio.wait({going_on}, timeout=0.2)
    assert steps == ["write"], "another writes beside it"
    goes_on.set()
    await going_on
    assert steps == ["write", "done"] * (len(steps) // 2)
    remembered = removal.load_memory(box.directory / "outbox.json")
    assert remembered.names() == [named(1, 1), named(1, 2)]


async def test_a_file_stays_until_its_archiver_is_done_with_its_name(box: Box) -> None:
    source = await box.started()
    box.archive(1, 1)
    path = box.outbox / named(1, 1)
    named_at = path.stat().st_ctime_ns / 1e9
    collected = await collect(source, 1, 2 * S)
    source.acknowledge(collected.end, collected.end, Lsn(0))
    await until(lambda: not path.exists(), "it goes")
    assert time.time() - named_at >= removal.GRACE_SECONDS


async def test_what_is_kept_is_not_read_again(box: Box) -> None:
    numbers = range(1, 4)
    box.archive(1, *numbers)
    paths = [box.outbox / named(1, number) for number in numbers]
    for path in paths:  # each reading shows: a time of access before that of change is renewed
        os.utime(path, (time.time() - 60, time.time() + 3600))
    unread = [path.stat().st_atime_ns for path in paths]
    source = await box.started(keep=True)
    collected = await collect(source, 1, 4 * S)
    source.acknowledge(collected.end, collected.end, Lsn(0))
    await until(lambda: (box.directory / "outbox.json").exists(), "it is remembered")
    await source.close()
    read = [path.stat().st_atime_ns for path in paths]
    if read == unread:
        pytest.skip("this file system keeps no times of access")
    box.archive(1, 4)
    again = await box.started(at(1, 4 * S), keep=True)
    collected = await collect(again, 1, 5 * S)
    again.acknowledge(collected.end, collected.end, Lsn(0))
    assert [span.start_lsn for span in collected.spans] == [4 * S]
    assert box.names() == {named(1, number) for number in (1, 2, 3, 4)}
    assert [path.stat().st_atime_ns for path in paths] == read


async def test_a_backup_marker_goes_when_its_backup_is_durable(box: Box) -> None:
    marker = f"{named(1, 1)}.00000028.backup"
    box.put(marker, f"STOP WAL LOCATION: {Lsn(3 * S)} (file {named(1, 2)})\n".encode())
    box.archive(1, 1, 2, 3)
    source = await box.started()
    collected = await collect(source, 1, 4 * S)
    source.acknowledge(collected.end, at(1, 2 * S), Lsn(0))
    await until(lambda: named(1, 1) not in box.names(), "the first segment goes")
    assert marker in box.names()
    source.acknowledge(collected.end, at(1, 3 * S), Lsn(0))
    await until(lambda: box.names() == {named(1, 3)}, "the marker goes")


# --- notices ----------------------------------------------------------------------------------


class NoInotify:
    def __init__(self) -> None:
        raise OSError(errno.EMFILE, "Too many open files")


async def test_without_notices_what_comes_next_is_found_by_looking(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "InotifyFD", NoInotify)
    source = await box.started()
    async with reading(source) as came:
        box.archive(1, 1, 2)
        await until(lambda: len(came) == 2, "both are found")
        box.put(history_name(2), TWO_TEXT)
        box.put(partial_name(1, 3 * S, S), box.segment(1, 3))
        box.archive(2, 3)
        await until(
            lambda: isinstance(came[-1], WalBytes) and came[-1].end_lsn == 4 * S, "the switch too"
        )
    assert source._outbox is not None
    assert source._outbox.full_scans == 1


async def test_lost_notices_lead_to_a_listing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    source = await box.started(rescan_seconds=3600)
    async with reading(source) as came:
        await until(lambda: source._outbox is not None, "it reads")
        outbox = source._outbox
        assert outbox is not None
        lost: list[tuple[str, bool | None]] = []
        monkeypatch.setattr(outbox._notices, "_noticed", lambda *notice: lost.append(notice))
        box.archive(1, 1)
        await until(lambda: (named(1, 1), True) in lost, "its notice is lost")
        for _ in range(5):
            await asyncio.sleep(0.02)
        assert came == []
        monkeypatch.undo()
        outbox._notices.on_queue_overflow()  # as watchdog says it
        await until(lambda: len(came) == 1, "it is listed")
        assert outbox.full_scans == 2
        box.archive(1, 2)
        await until(lambda: len(came) == 2, "and watched again")


async def test_many_files_are_listed_once(box: Box) -> None:
    for number in range(5000):
        os.mknod(box.outbox / named(9, number))
    source = await box.started(rescan_seconds=0.02)
    async with reading(source) as came:
        for number in range(1, 8):
            box.archive(1, number)
            await until(lambda n=number: len(came) == n, "it comes")  # type: ignore[misc]
    assert source._outbox is not None
    assert source._outbox.full_scans == 1


# --- the directory ----------------------------------------------------------------------------


async def test_an_outbox_that_is_not_there_yet_is_waited_for(box: Box) -> None:
    box.outbox.rmdir()
    with capture_logs() as logs:
        source = await box.started()
        async with reading(source) as came:
            await until(lambda: any("can't be used" in e["event"] for e in logs), "it is said")
            box.outbox.mkdir()
            box.archive(1, 1)
            await until(lambda: len(came) == 1, "it is there")


async def test_an_outbox_that_goes_away_and_comes_back(box: Box) -> None:
    box.archive(1, 1)
    source = await box.started()
    async with reading(source) as came:
        await until(lambda: len(came) == 1, "it reads")
        away = box.directory / "away"
        box.outbox.rename(away)
        (away / named(1, 2)).write_bytes(box.segment(1, 2))
        for _ in range(5):
            await asyncio.sleep(0.05)
        assert len(came) == 1
        away.rename(box.outbox)
        await until(lambda: len(came) == 2, "it is back")
        box.archive(1, 3)
        await until(lambda: len(came) == 3, "it is watched again")
    assert source._outbox is not None
    listed = source._outbox.full_scans
    async with reading(source):
        for _ in range(10):
            await asyncio.sleep(0.05)
    assert source._outbox.full_scans == listed, "and left in peace"


async def test_another_directory_in_its_place_is_noticed(box: Box) -> None:
    """As when a file system is mounted over it."""
    await other_directory_is_noticed(box, box.directory / "other")


@pytest.fixture
def far_away(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than `tmp_path`."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


async def test_an_outbox_on_another_file_system_is_shipped_emptied_and_remembered(
    box: Box, far_away: Path
) -> None:
    box.outbox = far_away / "outbox"
    box.outbox.mkdir()
    box.archive(1, 1, 2, 3)
    source = await box.started()
    check(box, await collect(source, 1, 4 * S))
    source.acknowledge(at(1, 4 * S), at(1, 4 * S), Lsn(0))
    await until(lambda: not box.names(), "what is durable is removed")
    await source.close()
    again = await box.started(at(1, 4 * S))
    async with reading(again) as came:
        box.archive(1, 4)
        await until(lambda: len(came) == 1, "it goes on")


async def test_a_file_system_that_is_mounted_in_its_place_is_noticed(
    box: Box, far_away: Path
) -> None:
    await other_directory_is_noticed(box, far_away / "other")


async def other_directory_is_noticed(box: Box, other: Path) -> None:
    source = await box.started()
    async with reading(source) as came:
        other.mkdir()
        (other / named(1, 1)).write_bytes(box.segment(1, 1))
        box.outbox.rename(box.directory / "covered")
        if other.stat().st_dev == box.directory.stat().st_dev:
            other.rename(box.outbox)
        else:
            box.outbox.symlink_to(other)
        await until(lambda: len(came) == 1, "the new one is read")


async def test_the_newest_position_is_what_was_archived_at_least(box: Box) -> None:
    box.archive(1, 1, 2)
    source = await box.started()
    assert source.flush_lsn == 3 * S
    box.put(history_name(2), TWO_TEXT)
    box.archive(2, 3)
    await collect(source, 2, 4 * S)
    assert source.flush_lsn == 4 * S

"""What comes next, whatever the order of arrival, and what may go, which is never too much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logship.lsn import Lsn, Position
from logship.wal import History, HistoryEntry, history_name, segment_name, segment_start
from shipper.sources.archive.index import Index
from shipper.sources.archive.line import (
    Piece,
    choose_line,
    covered_to,
    is_later_there,
    next_piece,
    past_the_switch,
    removable,
)
from shipper.sources.archive.names import partial_name
from tests.support.link_frames import at

MIB = 1 << 20


def history(timeline: int, *ancestors: tuple[int, int]) -> History:
    return History(timeline, tuple(HistoryEntry(old, Lsn(end)) for old, end in ancestors))


def named(timeline: int, number: int) -> str:
    return segment_name(timeline, number * MIB, MIB)


def index_of(*names: str) -> Index:
    index = Index(MIB)
    index.replace(names)
    return index


# --- next_piece ------------------------------------------------------------------------------

FORK = 3 * MIB + 100
ONE_SWITCH = history(2, (1, FORK))


def test_with_no_switch_known_it_is_the_rest_of_the_segment() -> None:
    assert next_piece(at(1, 3 * MIB + 7), None, MIB) == Piece(
        1, Lsn(3 * MIB + 7), Lsn(4 * MIB), (named(1, 3),)
    )


def test_an_old_timeline_s_last_bytes_are_in_three_files() -> None:
    piece = next_piece(at(1, 3 * MIB), ONE_SWITCH, MIB)
    assert piece == (
        1,
        3 * MIB,
        FORK,
        (named(1, 3), partial_name(1, 3 * MIB, MIB), named(2, 3)),
    )


def test_after_the_switch_point_the_new_timeline_begins_at_its_segment_s_start() -> None:
    assert next_piece(at(1, FORK), ONE_SWITCH, MIB) == (2, 3 * MIB, 4 * MIB, (named(2, 3),))


def test_two_switches_in_one_segment() -> None:
    line = history(7, (1, FORK), (4, FORK + 50))
    first = next_piece(at(1, 3 * MIB), line, MIB)
    assert first.end_lsn == FORK
    assert first.names == (
        named(1, 3),
        partial_name(1, 3 * MIB, MIB),
        named(4, 3),
        partial_name(4, 3 * MIB, MIB),
        named(7, 3),
    )
    second = next_piece(at(1, FORK), line, MIB)
    assert second[:3] == (4, 3 * MIB, FORK + 50)
    assert next_piece(at(4, FORK + 50), line, MIB)[:3] == (7, 3 * MIB, 4 * MIB)


def test_a_switch_at_a_segment_s_end_needs_no_part_of_one() -> None:
    line = history(2, (1, 4 * MIB))
    assert next_piece(at(1, 3 * MIB), line, MIB).names == (named(1, 3),)
    assert next_piece(at(1, 4 * MIB), line, MIB)[:3] == (2, 4 * MIB, 5 * MIB)


def test_what_the_store_has_past_the_fork_is_left_behind() -> None:
    assert next_piece(at(1, 5 * MIB), ONE_SWITCH, MIB)[:2] == (2, 3 * MIB)


HISTORIES = {2: ONE_SWITCH, 3: history(3, (1, 2 * MIB)), 5: history(5, (1, MIB), (2, 2 * MIB))}


def test_without_a_primary_the_newest_line_through_the_timeline_counts() -> None:
    assert choose_line(1, HISTORIES, 0) == HISTORIES[5]
    assert choose_line(3, HISTORIES, 0) == HISTORIES[3]
    assert choose_line(4, HISTORIES, 0) is None


def test_with_one_only_its_line_counts() -> None:
    assert choose_line(1, HISTORIES, 3) == HISTORIES[3]
    assert choose_line(1, HISTORIES, 1) is None, "others were promoted, it was not"
    assert choose_line(2, HISTORIES, 2) == ONE_SWITCH
    assert choose_line(2, HISTORIES, 3) == ONE_SWITCH, "the primary's does not go through 2"
    assert choose_line(1, HISTORIES, 7) is None, "its history is not there yet"


def test_later_wal_on_the_line_is_told_from_other_wal() -> None:
    piece = next_piece(at(1, 2 * MIB), ONE_SWITCH, MIB)
    assert is_later_there(piece, ONE_SWITCH, index_of(named(1, 3)))
    assert is_later_there(piece, ONE_SWITCH, index_of(named(2, 9)))
    assert not is_later_there(piece, ONE_SWITCH, index_of(named(1, 1), named(1, 9)))
    assert not is_later_there(piece, None, index_of(named(2, 9)))


# --- any line, any order of arrival ----------------------------------------------------------


@dataclass(frozen=True)
class Archive:
    """What archivers made of one line: its files, and the bytes that each has."""

    line: History
    end: Position
    files: Mapping[str, History | None]
    """The history for a history file."""


@st.composite
def archives(draw: st.DrawFn) -> Archive:
    count = draw(st.integers(0, 4))
    numbers = sorted(draw(st.sets(st.integers(2, 30), min_size=count, max_size=count)))
    line_timelines = [1, *numbers]
    entries: list[HistoryEntry] = []
    files: dict[str, History | None] = {}
    end = MIB
    for place, timeline in enumerate(line_timelines):
        start = segment_start(end, MIB)
        if timeline > 1:
            files[history_name(timeline)] = History(timeline, tuple(entries))
        step = draw(st.integers(1, 4 * MIB))
        last = place == len(line_timelines) - 1
        end = segment_start(end, MIB) + 5 * MIB if last else end + step
        for lsn in range(start, segment_start(end, MIB), MIB):
            files[segment_name(timeline, lsn, MIB)] = None
        if not last and end % MIB:
            # The old server may have gone on, or not have delivered its part.
            kind = draw(st.sampled_from(["partial", "whole", "both", "neither"]))
            if kind in ("partial", "both"):
                files[partial_name(timeline, end, MIB)] = None
            if kind in ("whole", "both"):
                files[segment_name(timeline, end, MIB)] = None
        entries.append(HistoryEntry(timeline, Lsn(end)))
    line = History(line_timelines[-1], tuple(entries[:-1]))
    return Archive(line, Position(line.timeline, Lsn(end)), files)


class Reader:
    """Does what the source does, without its disk."""

    def __init__(self) -> None:
        self.index = Index(MIB)
        self.histories: dict[int, History] = {}
        self.next = Position(1, Lsn(MIB))
        self.pieces: list[Piece] = []

    def arrived(self, name: str, history: History | None) -> None:
        self.index.add(name)
        if history is not None:
            self.histories[history.timeline] = history
        while True:
            line = choose_line(self.next.timeline, self.histories, 0)
            piece = next_piece(self.next, line, MIB)
            if not any(name in self.index for name in piece.names):
                return
            self.pieces.append(piece)
            self.next = Position(piece.timeline, piece.end_lsn)


@given(archives(), st.randoms(use_true_random=False))
def test_in_any_order_of_arrival_it_reads_the_whole_line_without_a_hole(
    archive: Archive, random: object
) -> None:
    names = list(archive.files)
    random.shuffle(names)  # type: ignore[attr-defined]
    reader = Reader()
    # An archiver sends a history before all else: without it, what an old server wrote past
    # the fork is read too, as a standby of that server would.
    names.sort(key=lambda name: not name.endswith(".history"))
    for name in names:
        reader.arrived(name, archive.files[name])
    assert reader.next == archive.end
    previous = Position(1, Lsn(MIB))
    for piece in reader.pieces:
        assert piece.start_lsn < piece.end_lsn
        if piece.timeline == previous.timeline:
            assert piece.start_lsn == previous.lsn
        else:
            assert archive.line.end_of(previous.timeline) == previous.lsn
            assert archive.line.successor_of(previous.timeline) == piece.timeline
            assert piece.start_lsn == segment_start(previous.lsn, MIB)
        previous = Position(piece.timeline, piece.end_lsn)


@given(archives(), st.randoms(use_true_random=False))
def test_histories_that_come_late_lose_nothing_either(archive: Archive, random: object) -> None:
    names = list(archive.files)
    random.shuffle(names)  # type: ignore[attr-defined]
    reader = Reader()
    for name in names:
        reader.arrived(name, archive.files[name])
    assert reader.next == archive.end
    for old, new in zip(reader.pieces, reader.pieces[1:], strict=False):
        if old.timeline == new.timeline:
            assert new.start_lsn == old.end_lsn
        else:
            assert new.start_lsn <= old.end_lsn


@given(archives(), st.data())
def test_nothing_goes_before_its_bytes_are_durable(archive: Archive, data: st.DataObject) -> None:
    reader = Reader()
    for name, content in archive.files.items():
        if content is not None:
            reader.arrived(name, content)
    for name in archive.files:
        reader.arrived(name, None)
    reached = data.draw(st.integers(0, len(reader.pieces)))
    held = {(p.timeline, p.start_lsn, p.end_lsn) for p in reader.pieces[:reached]}
    left = reader.pieces[reached:]
    durable = Position(1, Lsn(MIB))
    if reached:
        durable = Position(reader.pieces[reached - 1].timeline, reader.pieces[reached - 1].end_lsn)
    gone = set(removable(reader.index, durable, reader.histories, {}))
    for piece in left:
        own = segment_name(piece.timeline, piece.start_lsn, MIB)
        assert own not in gone, "its bytes are not durable"
        still = [name for name in piece.names if name in reader.index and name not in gone]
        assert still, "nothing is left to read it from"
    for name in gone:
        assert not name.endswith(".history")
        if len(name) == 24:
            timeline = int(name[:8], 16)
            ends = [end for t, _, end in held if t == timeline]
            start = int(name[16:], 16) * MIB
            assert max(ends) >= start + MIB


@given(archives())
def test_in_the_end_only_what_an_old_server_wrote_past_a_fork_stays(archive: Archive) -> None:
    reader = Reader()
    for name, content in archive.files.items():
        reader.arrived(name, content)
    while gone := list(removable(reader.index, archive.end, reader.histories, {})):
        for name in gone:
            reader.index.discard(name)
    left = {name for name in archive.files if name in reader.index}
    past = {
        segment_name(entry.timeline, entry.end_lsn, MIB)
        for entry in archive.line.ancestors
        if entry.end_lsn % MIB
    }
    assert {name for name in left if not name.endswith(".history")} <= past
    histories = {name for name in archive.files if name.endswith(".history")}
    assert histories <= left, "a far end that is made anew needs them"


# --- removable, by hand -----------------------------------------------------------------------


def test_a_segment_goes_when_it_is_durable_to_its_end() -> None:
    index = index_of(named(1, 3), named(1, 4))
    assert list(removable(index, at(1, 4 * MIB - 1), {}, {})) == []
    assert list(removable(index, at(1, 4 * MIB), {}, {})) == [named(1, 3)]


def test_a_partial_goes_when_the_store_is_on_the_new_timeline() -> None:
    partial = partial_name(1, 3 * MIB, MIB)
    index = index_of(partial, named(1, 2), history_name(2))
    histories = {2: ONE_SWITCH}
    assert list(removable(index, at(1, FORK), histories, {})) == [named(1, 2)]
    assert list(removable(index, at(2, 3 * MIB + 1), histories, {})) == [named(1, 2), partial]


def test_files_of_a_line_that_the_store_is_not_on_stay() -> None:
    sibling = (named(2, 3), partial_name(2, 4 * MIB, MIB), history_name(2))
    index = index_of(*sibling)
    histories = {2: ONE_SWITCH, 3: history(3, (1, FORK))}
    assert list(removable(index, at(3, 9 * MIB), histories, {})) == []


def test_a_backup_marker_goes_when_wal_is_durable_to_the_backup_s_end() -> None:
    marker = f"{named(1, 3)}.00000028.backup"
    index = index_of(marker)
    stops = {marker: Lsn(5 * MIB)}
    assert list(removable(index, at(1, 5 * MIB - 1), {}, stops)) == []
    assert list(removable(index, at(1, 5 * MIB), {}, stops)) == [marker]
    assert list(removable(index, at(1, 9 * MIB), {}, {})) == [], "it does not say where it ends"


@pytest.mark.parametrize(
    ("durable", "timeline", "to"),
    [(at(2, 9 * MIB), 2, 9 * MIB), (at(2, 9 * MIB), 1, FORK), (at(2, 9 * MIB), 3, 0)],
)
def test_of_an_ancestor_is_durable_what_is_on_the_line(
    durable: Position, timeline: int, to: int
) -> None:
    assert covered_to(durable, timeline, {2: ONE_SWITCH}) == to


def test_past_the_switch_is_what_no_line_has() -> None:
    index = index_of(*(named(1, number) for number in (1, 2, 3, 4)), named(2, 3), named(3, 9))
    histories = {2: ONE_SWITCH}
    assert list(past_the_switch(index, at(2, 9 * MIB), histories)) == [named(1, 3), named(1, 4)]
    assert list(past_the_switch(index, at(1, 9 * MIB), histories)) == [], "not switched yet"
    at_boundary = {2: history(2, (1, 3 * MIB))}
    assert list(past_the_switch(index, at(2, 9 * MIB), at_boundary)) == [named(1, 3), named(1, 4)]

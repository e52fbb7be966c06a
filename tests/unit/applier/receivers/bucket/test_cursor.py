"""The cursor as transcripts: events in, commands out; and whatever the network does, in order."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from applier.receivers.bucket.cursor import (
    HOLE_SECONDS,
    MAX_HOLE_SECONDS,
    OVERLAP_BYTES,
    PARALLEL_GETS,
    RELOOK_SECONDS,
    Command,
    Cursor,
    Dry,
    Failed,
    Get,
    HandOn,
    Hole,
    Look,
    Open,
)
from logship.bucket.keys import Keys, Place
from logship.bucket.listing import Item
from logship.bucket.wal_objects import Head, Marker
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from tests.support.link_frames import SEGMENT_BYTES, at, profile
from tests.support.stores import unreachable

S = SEGMENT_BYTES
POLL = 1.0
KEYS = Keys("orders", profile().incarnation)


@functools.cache
def _noise(timeline: int) -> bytes:
    return random.Random(timeline).randbytes(3 * S - 7)


def wal(timeline: int, start_lsn: int, size_bytes: int) -> bytes:
    """Bytes that tell where they belong, made fast."""
    noise = _noise(timeline)
    start = start_lsn % len(noise)
    return (noise[start:] + noise)[:size_bytes]


class Bucket:
    """What is there, for a cursor that is stepped by hand."""

    def __init__(self, **options: Any) -> None:
        self.objects: dict[str, Head] = {}
        self.cursor = Cursor(KEYS, S, **{"poll_seconds": POLL, "window_bytes": 4 * S, **options})
        self.now = 100.0

    def span(self, start: int, end: int, timeline: int = 1, step: int = 0) -> Place:
        place = Place(timeline, Lsn(start), step)
        self.objects[KEYS.wal(place)] = Head(
            timeline=timeline, start_lsn=start, raw_bytes=end - start
        )
        return place

    def segment(self, start: int, end: int = 0, timeline: int = 1) -> None:
        head = Head(timeline=timeline, start_lsn=start, raw_bytes=(end or start + S) - start)
        self.objects[KEYS.segment(timeline, start, S)] = head

    def marker(self, place: Place, marker: Marker) -> None:
        self.objects[KEYS.wal(place)] = Head(
            timeline=place.timeline, start_lsn=int(place.lsn), marker=marker
        )

    def items(self, position: Position) -> list[Item]:
        start = position.lsn - position.lsn % S
        items = []
        for key, head in self.objects.items():
            segment = key.startswith(KEYS.all_segments)
            place = (
                Place(head.timeline, Lsn(head.start_lsn))
                if segment
                else Place.parse(key.removeprefix(KEYS.all_wal))
            )
            items.append(Item(place, segment, self.size(key), key))
        items.sort(key=lambda item: item.order)
        near = [item for item in items if item.place >= (position.timeline, start)]
        found = near and near[0].place <= Place(position.timeline, position.lsn)
        return near if found else items

    def size(self, key: str) -> int:
        return self.objects[key].raw_bytes // 4

    def begin(self, position: Position) -> list[Command]:
        return self.cursor.begin(position, self.items(position), self.now)

    def answer(self, get: Get) -> list[Command]:
        head = self.objects.get(get.key)
        if head is None:
            return self.cursor.absent(get, self.now)
        return self.cursor.came(get, head, bytes(self.size(get.key)), self.now)

    def open(self, command: Open) -> list[Command]:
        head = command.arrived.head
        raw = wal(head.timeline, head.start_lsn, head.raw_bytes)
        return self.cursor.opened(command.arrived.get.key, raw, self.now)


class Intake:
    """Where a run of the cursor ends up."""

    def __init__(self, position: Position) -> None:
        self.position = position
        self.taken: list[tuple[int, int, int]] = []
        self.markers: list[str] = []
        self.holes: list[Hole] = []

    def take(self, given: HandOn) -> None:
        head = given.arrived.head
        if head.marker is not None:
            self.markers.append(head.marker.kind)
            return
        if given.raw is None:
            return
        end = given.start_lsn + len(given.raw)
        assert bytes(given.raw) == wal(head.timeline, given.start_lsn, len(given.raw))
        timeline, lsn = self.position
        if head.timeline == timeline:
            assert given.start_lsn <= lsn, "a gap"
        else:
            assert head.timeline > timeline
        self.taken.append((head.timeline, int(given.start_lsn), end))
        if (head.timeline, end) > self.position:
            self.position = at(head.timeline, end)


def run(
    bucket: Bucket,
    intake: Intake,
    *,
    pick: random.Random | None = None,
    failures: int = 0,
    steps: int = 100_000,
) -> None:
    """Until everything that is there was handed on.  pick: answers come in any order."""
    pending: list[Command] = bucket.begin(intake.position)
    left = failures
    for _ in range(steps):
        assert bucket.cursor.window_used_bytes <= bucket.cursor._window_bytes + S
        assert len(bucket.cursor._opened) + len(bucket.cursor._opening) <= 2
        assert sum(isinstance(each, Get) for each in pending) <= PARALLEL_GETS + 1
        if not pending:
            deadline = bucket.cursor.deadline
            assert deadline is not None, "it waits for nothing"
            bucket.now = max(bucket.now, deadline)
            pending = bucket.cursor.timer(bucket.now)
            continue
        at_once = [each for each in pending if isinstance(each, Dry | Hole | Failed)]
        pending = [each for each in pending if not isinstance(each, Dry | Hole | Failed)]
        intake.holes += [each for each in at_once if isinstance(each, Hole)]
        if not pending and any(isinstance(each, Dry | Hole) for each in at_once):
            return
        if not pending:
            continue
        command = pending.pop(pick.randrange(len(pending)) if pick else 0)
        bucket.now += 0.01
        match command:
            case Get():
                if left and pick is not None and pick.random() < 0.3:
                    left -= 1
                    error = unreachable()
                    pending += bucket.cursor.failed(command.key, error, bucket.now)
                else:
                    pending += bucket.answer(command)
            case Open(arrived):
                if left and pick is not None and pick.random() < 0.3:
                    left -= 1
                    error = LogshipError(Code.OBJECT_DAMAGED, "a flipped bit")
                    pending += bucket.cursor.failed(arrived.get.key, error, bucket.now)
                else:
                    pending += bucket.open(command)
            case HandOn():
                intake.take(command)
                pending += bucket.cursor.handed_on(intake.position, bucket.now)
            case Look():
                pending += bucket.begin(intake.position)
    raise AssertionError("it does not end")


def kinds(commands: Sequence[Command]) -> list[str]:
    return [type(each).__name__ for each in commands]


# --- up to date -----------------------------------------------------------------------------------


def test_a_poll_asks_for_one_object_by_its_name() -> None:
    bucket = Bucket()
    bucket.span(S, S + 100)
    run(bucket, intake := Intake(at(1, S + 100)))
    assert intake.taken == []
    for _ in range(5):
        deadline = bucket.cursor.deadline
        assert deadline is not None and deadline - bucket.now == pytest.approx(POLL)
        assert bucket.cursor.timer(bucket.now + POLL / 2) == []
        bucket.now = deadline
        (get,) = bucket.cursor.timer(bucket.now)
        assert isinstance(get, Get) and get.key == KEYS.wal(Place(1, Lsn(S + 100)))
        assert kinds(bucket.answer(get)) == ["Dry"]


def test_what_came_is_handed_on_and_the_next_is_asked_for_at_once() -> None:
    bucket = Bucket()
    bucket.span(S, S + 100)
    run(bucket, Intake(at(1, S + 100)))
    bucket.span(S + 100, S + 300)
    bucket.now += POLL
    (get,) = bucket.cursor.timer(bucket.now)
    assert isinstance(get, Get)
    (opening,) = bucket.answer(get)
    assert isinstance(opening, Open)
    (given,) = bucket.open(opening)
    assert isinstance(given, HandOn) and given.start_lsn == S + 100
    assert given.raw is not None and bytes(given.raw) == wal(1, S + 100, 200)
    (following,) = bucket.cursor.handed_on(at(1, S + 300), bucket.now)
    assert isinstance(following, Get) and following.place == Place(1, Lsn(S + 300))


def test_after_a_long_silence_a_listing_tells_what_was_compacted_meanwhile() -> None:
    bucket = Bucket()
    bucket.span(S, S + 100)
    intake = Intake(at(1, S + 100))
    run(bucket, intake)
    bucket.objects.clear()
    bucket.segment(S)
    bucket.now += RELOOK_SECONDS + POLL + 1
    (get,) = bucket.cursor.timer(bucket.now)
    assert isinstance(get, Get)
    assert kinds(bucket.answer(get)) == ["Look"]
    run(bucket, intake)
    assert intake.position == at(1, 2 * S)


def test_now_and_then_a_poll_asks_for_the_finished_segment_instead() -> None:
    """The small object may have come and gone between two polls."""
    bucket = Bucket()
    bucket.span(S, S + 100)
    intake = Intake(at(1, S + 100))
    run(bucket, intake)
    bucket.objects.clear()
    polls = 0
    while polls < 70:
        polls += 1
        bucket.now = bucket.cursor.deadline or 0.0
        (get,) = bucket.cursor.timer(bucket.now)
        assert isinstance(get, Get)
        if get.is_segment:
            break
        assert kinds(bucket.answer(get)) == ["Dry"]
    assert 50 < polls < 70
    assert kinds(bucket.answer(get)) == ["Dry"]
    bucket.segment(S)
    for _ in range(polls + 2):
        bucket.now = bucket.cursor.deadline or 0.0
        (get,) = bucket.cursor.timer(bucket.now)
        assert isinstance(get, Get)
        commands = bucket.answer(get)
        if kinds(commands) != ["Dry"]:
            break
    (opening,) = commands
    assert isinstance(opening, Open)
    (given,) = bucket.open(opening)
    assert isinstance(given, HandOn) and given.start_lsn == S
    assert given.raw is not None and len(given.raw) == S


# --- where to begin -------------------------------------------------------------------------------


def test_begins_with_the_object_that_holds_the_position_and_compares_a_little() -> None:
    bucket = Bucket()
    bucket.span(S, S + 100)
    bucket.span(S + 100, S + 300_000)
    run(bucket, intake := Intake(at(1, S + 200_000)))
    assert intake.taken == [(1, S + 200_000 - OVERLAP_BYTES, S + 300_000)]


def test_a_bucket_that_is_behind_is_followed_until_it_has_something_new() -> None:
    """The link was ahead: what it brought is not handed on again."""
    bucket = Bucket()
    for start in range(S, 3 * S, S // 4):
        bucket.span(start, start + S // 4)
    intake = Intake(at(1, 4 * S + 100))
    run(bucket, intake)
    assert intake.taken == []
    for start in range(3 * S, 5 * S, S // 4):
        bucket.span(start, start + S // 4)
    run(bucket, intake)
    assert intake.position == at(1, 5 * S)
    assert intake.taken[0][1] == 4 * S + 100 - min(OVERLAP_BYTES, 100)


def test_a_finished_segment_is_read_from_where_the_small_objects_are_gone() -> None:
    bucket = Bucket()
    bucket.segment(S)
    bucket.segment(2 * S)
    bucket.span(3 * S, 3 * S + 10)
    run(bucket, intake := Intake(at(1, S + 700_000)))
    assert [start for _, start, _ in intake.taken] == [S + 700_000 - OVERLAP_BYTES, 2 * S, 3 * S]
    assert intake.position == at(1, 3 * S + 10)


def test_a_listed_object_that_is_gone_when_its_turn_comes_is_looked_for_anew() -> None:
    bucket = Bucket(window_bytes=1)
    for start in range(S, 2 * S, S // 4):
        bucket.span(start, start + S // 4)
    intake = Intake(at(1, S))
    commands = bucket.begin(intake.position)
    bucket.objects = {}
    bucket.segment(S)
    bucket.span(2 * S, 2 * S + 5)
    (get,) = commands
    assert isinstance(get, Get)
    assert kinds(bucket.answer(get)) == ["Look"]
    run(bucket, intake)
    assert intake.position == at(1, 2 * S + 5)


def test_an_empty_bucket_is_listed_rarely() -> None:
    bucket = Bucket()
    pause = HOLE_SECONDS
    for _ in range(8):
        assert kinds(bucket.begin(at(1, S))) == ["Dry"]
        assert bucket.cursor.deadline == bucket.now + pause
        bucket.now += pause
        assert kinds(bucket.cursor.timer(bucket.now)) == ["Look"]
        pause = min(2 * pause, MAX_HOLE_SECONDS)
    assert kinds(bucket.begin(at(1, S + 1))) == ["Dry"]
    assert bucket.cursor.deadline == bucket.now + HOLE_SECONDS, "it went on elsewhere"


def test_of_what_was_listed_only_what_comes_is_remembered() -> None:
    bucket = Bucket()
    for number in range(1, 40):
        bucket.segment(number * S)
    run(bucket, intake := Intake(at(1, S)))
    assert intake.position == at(1, 40 * S)
    assert bucket.cursor.remembered == 0


# --- markers and holes ----------------------------------------------------------------------------


def test_a_new_timeline_begins_where_its_marker_says() -> None:
    bucket = Bucket()
    fork = S + 500
    bucket.span(S, fork)
    bucket.marker(Place(1, Lsn(fork)), Marker(kind="timeline", timeline=2))
    bucket.span(S, S + 900, timeline=2)
    run(bucket, intake := Intake(at(1, S)))
    assert intake.markers == ["timeline"]
    assert intake.taken == [(1, S, fork), (2, S, S + 900)]
    # Also for one who is on the new one already.
    bucket.span(S + 900, S + 950, timeline=2)
    run(bucket, later := Intake(at(2, S + 900)))
    assert later.markers == [] and later.position == at(2, S + 950)


def test_what_stands_behind_a_gap_is_found_by_steps() -> None:
    bucket = Bucket()
    bucket.span(S, S + 10)
    bucket.marker(Place(1, Lsn(S + 10)), Marker(kind="gap", code="slot-lost", what="gone"))
    bucket.span(S + 10, S + 30, step=1)
    run(bucket, intake := Intake(at(1, S)))
    assert intake.markers == ["gap"]
    assert intake.position == at(1, S + 30)


def test_a_hole_is_named_with_where_wal_can_be_had_again_and_watched() -> None:
    bucket = Bucket()
    bucket.span(S, S + 10)
    bucket.span(3 * S, 3 * S + 10)
    intake = Intake(at(1, S))
    run(bucket, intake)
    assert intake.holes == [Hole(at(1, S + 10), Place(1, Lsn(3 * S)))]
    assert intake.position == at(1, S + 10)
    assert bucket.cursor.deadline == pytest.approx(bucket.now + HOLE_SECONDS)
    run(bucket, intake)
    assert bucket.cursor.deadline == pytest.approx(bucket.now + 2 * HOLE_SECONDS)
    bucket.span(S + 10, 2 * S)
    bucket.segment(2 * S)
    run(bucket, intake)
    assert intake.position == at(1, 3 * S + 10)


def test_a_bucket_that_begins_behind_the_position_has_a_hole() -> None:
    bucket = Bucket()
    bucket.segment(3 * S)
    assert bucket.begin(at(1, S)) == [Hole(at(1, S), Place(1, Lsn(3 * S)))]


# --- failures -------------------------------------------------------------------------------------


def test_a_failure_is_told_and_tried_again_with_growing_pauses() -> None:
    bucket = Bucket()
    bucket.span(S, S + 10)
    (get,) = bucket.begin(at(1, S))
    pauses = []
    for _ in range(8):
        assert isinstance(get, Get)
        assert kinds(bucket.cursor.failed(get.key, unreachable(), bucket.now)) == ["Failed"]
        deadline = bucket.cursor.deadline
        assert deadline is not None
        pauses.append(deadline - bucket.now)
        bucket.now = deadline
        (get,) = bucket.cursor.timer(bucket.now)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_nothing_of_a_damaged_object_is_handed_on_and_it_is_fetched_again() -> None:
    bucket = Bucket()
    bucket.span(S, S + 10)
    (get,) = bucket.begin(at(1, S))
    assert isinstance(get, Get)
    (opening,) = bucket.answer(get)
    assert isinstance(opening, Open)
    error = LogshipError(Code.OBJECT_DAMAGED, "a flipped bit")
    (failed,) = bucket.cursor.failed(get.key, error, bucket.now)
    assert failed == Failed(error)
    bucket.now += POLL
    assert bucket.cursor.timer(bucket.now) == [get]


# --- ahead ----------------------------------------------------------------------------------------


def test_what_is_listed_is_fetched_ahead_within_the_window() -> None:
    bucket = Bucket(window_bytes=3 * (S // 4))
    for number in range(1, 20):
        bucket.segment(number * S)
    commands = bucket.begin(at(1, S))
    assert [each.place.lsn // S for each in commands if isinstance(each, Get)] == [1, 2, 3]


def test_small_objects_of_a_finished_segment_are_not_fetched() -> None:
    bucket = Bucket()
    for start in range(S, 2 * S, S // 8):
        bucket.span(start, start + S // 8)
    bucket.segment(S)
    commands = bucket.begin(at(1, S))
    assert [each.key for each in commands if isinstance(each, Get)] == [KEYS.segment(1, S, S)]


def test_one_who_is_behind_with_no_list_guesses_the_first_objects_of_segments() -> None:
    bucket = Bucket()
    bucket.span(S - 10, S)
    intake = Intake(at(1, S))
    run(bucket, intake)
    for number in range(1, 30):
        bucket.span(number * S, (number + 1) * S)
    bucket.now = bucket.cursor.deadline or bucket.now
    pending = bucket.cursor.timer(bucket.now)
    most = 0
    while pending:
        most = max(most, sum(isinstance(each, Get) for each in pending))
        command = pending.pop(0)
        bucket.now += 0.01
        match command:
            case Get():
                pending += bucket.answer(command)
            case Open():
                pending += bucket.open(command)
            case HandOn():
                intake.take(command)
                pending += bucket.cursor.handed_on(intake.position, bucket.now)
            case Look():
                raise AssertionError("it must not list")
            case Dry():
                break
    assert intake.position == at(1, 30 * S)
    assert most >= 3


@settings(max_examples=150, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 4 * S - 1), max_size=25),
    finished=st.sets(st.integers(1, 4), max_size=4),
    removed=st.booleans(),
    fork=st.none() | st.integers(1, 4 * S - 1),
    held=st.integers(0, 4 * S),
    window=st.sampled_from([1, S // 3, S, 10 * S]),
    failures=st.integers(0, 12),
    seed=st.integers(0, 2**32),
)
# A segment and its first small object were both here, and three were open at a time.
@example([1], {1}, False, None, 0, S, 0, 77007135)
@example([1], {1}, False, None, 0, S, 0, 1)
def test_whatever_comes_when_all_of_it_is_handed_on_in_order(
    cuts: list[int],
    finished: set[int],
    removed: bool,
    fork: int | None,
    held: int,
    window: int,
    failures: int,
    seed: int,
) -> None:
    bucket = Bucket(window_bytes=window)
    end = 5 * S if fork is None else S + fork
    inside = {S + cut for cut in cuts if S + cut < end}
    edges = sorted({S, end, *inside, *range(S, end, S)})
    for start, stop in itertools.pairwise(edges):
        bucket.span(start, stop)
    for number in finished:
        if (number + 1) * S <= end:
            bucket.segment(number * S)
            for key, head in list(bucket.objects.items()):
                if removed and key.startswith(KEYS.all_wal) and head.start_lsn // S == number:
                    del bucket.objects[key]
    wanted = at(1, end)
    if fork is not None:
        bucket.marker(Place(1, Lsn(end)), Marker(kind="timeline", timeline=2))
        start = end - end % S
        bucket.span(start, start + S, timeline=2)
        bucket.span(start + S, start + S + 7, timeline=2)
        wanted = at(2, start + S + 7)
    intake = Intake(at(1, min(S + held, end)))
    run(bucket, intake, pick=random.Random(seed), failures=failures)
    assert intake.position == wanted
    assert intake.holes == []


@pytest.mark.parametrize("kind", ["timeline", "seed"])
@pytest.mark.parametrize("to", [S, S + 1000])
def test_a_marker_that_leads_back_is_damaged_and_not_followed(kind: str, to: int) -> None:
    bucket = Bucket()
    bucket.span(S, S + 1000)
    here = Place(1, Lsn(S + 1000))
    bucket.marker(here, Marker(kind=kind, timeline=1, lsn=to, seed="5eed"))
    (get,) = [each for each in bucket.begin(at(1, S + 1000)) if isinstance(each, Get)]
    assert get.place == here
    (failed,) = bucket.answer(get)
    assert isinstance(failed, Failed)
    assert failed.error.code is Code.OBJECT_DAMAGED
    assert "leads back" in failed.error.what
    assert bucket.cursor.place == here
    assert bucket.cursor.deadline is not None, "it is tried again, later"

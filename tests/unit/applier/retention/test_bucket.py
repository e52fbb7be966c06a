"""Retention of a bucket: what seeds and the window need stays, what is locked is said."""

from __future__ import annotations

from applier.retention.bucket import BucketParts, Rules, retain_bucket
from applier.retention.plan import EVERY_SEED, Need
from logship.bucket.keys import Keys, Place
from logship.bucket.seed_archive import SeedArchiveWriter, list_seeds
from logship.identity import Incarnation
from logship.lsn import Lsn
from tests.support.memory_store import MemoryStore
from tests.unit.applier.receivers.seed.archives import (
    START_LSN,
    SYSTEM_IDENTIFIER,
    entry,
    manifest,
    seed,
)

KEYS = Keys("main", Incarnation(SYSTEM_IDENTIFIER, 17))
S = 1 << 20
DAY = 86_400.0
NOW = 100 * DAY
FIRST = START_LSN // S
"""Number of the segment in which every seed here starts."""


def put_wal(store: MemoryStore, segment: int, *, at: float, timeline: int = 1) -> None:
    """Two spans and a marker in a segment."""
    store.now = at
    for offset in (0, 1000):
        place = Place(timeline, Lsn(segment * S + offset))
        store.put(KEYS.wal(place), b"x" * 100)
    store.put(KEYS.wal(Place(timeline, Lsn(segment * S + 1000), 1)), b"")


def put_seed(store: MemoryStore, seed_id: str, *, at: float, finished: bool = True) -> None:
    store.now = at
    content = {"backup_label": b"x"}
    frames = seed([("", entry("backup_label", b"x"))], manifest(content), seed_id=seed_id)
    writer = SeedArchiveWriter(store, KEYS, now=lambda: at)
    for frame, payload in frames if finished else frames[:1]:
        writer.take(frame, payload)
    if not finished:
        store.put(f"{KEYS.all_seeds}{START_LSN:016X}-{seed_id}/base/000000", b"x")


def retain(
    store: MemoryStore,
    *needs: Need,
    keep: int = 1,
    window: float = 2 * DAY,
    dry_run: bool = False,
) -> BucketParts:
    rules = Rules(keep, NOW - window, NOW)
    return retain_bucket(store, KEYS, S, rules, needs=needs, dry_run=dry_run)


def seeds_in(store: MemoryStore) -> list[str]:
    return [info.name.seed_id for info in list_seeds(store, KEYS)]


def segments_in(store: MemoryStore) -> set[tuple[int, int]]:
    places = [
        Place.parse(key[len(KEYS.all_wal) :])
        for key in store.objects
        if key.startswith(KEYS.all_wal)
    ]
    return {(place.timeline, place.lsn // S) for place in places}


def test_wal_before_the_oldest_seed_that_stays_goes() -> None:
    store = MemoryStore()
    for segment in range(FIRST - 3, FIRST + 3):
        put_wal(store, segment, at=NOW - 9 * DAY)
    put_seed(store, "aa", at=NOW - 8 * DAY)
    put_seed(store, "bb", at=NOW - 5 * DAY)
    before = store.objects
    told = retain(store, dry_run=True)
    assert store.objects == before
    parts = retain(store)
    assert parts == told
    assert seeds_in(store) == ["bb"]
    assert segments_in(store) == {(1, FIRST + n) for n in range(3)}
    assert not any("-aa/" in key for key in store.objects)
    assert sum(group.pieces for group in parts.wal.removed) == 9
    again = retain(store)
    assert again.wal.removed == [] and again.seeds.removed == []


def test_the_window_and_a_reader_keep_what_no_seed_needs() -> None:
    store = MemoryStore()
    put_seed(store, "aa", at=NOW - DAY)
    for number, age in ((1, 9), (2, 1), (3, 9)):
        put_wal(store, FIRST - 4 + number, at=NOW - age * DAY)
    retain(store)
    assert segments_in(store) == {(1, FIRST - 2), (1, FIRST - 1)}
    retain(store, Need(1, (FIRST - 1) * S, "the applier"), window=0)
    assert segments_in(store) == {(1, FIRST - 1)}


def test_without_a_seed_no_wal_goes() -> None:
    store = MemoryStore()
    put_wal(store, 1, at=0)
    parts = retain(store)
    assert segments_in(store) == {(1, 1)}
    assert parts.wal.kept[0].why == "what is needed is not known"


def test_compacted_objects_go_and_markers_stay_with_their_segment() -> None:
    store = MemoryStore()
    put_seed(store, "aa", at=NOW - 10 * DAY)
    put_wal(store, FIRST, at=NOW - 9 * DAY)
    put_wal(store, FIRST + 1, at=NOW - 9 * DAY)
    put_wal(store, FIRST + 2, at=NOW - DAY)
    for number in (0, 2):
        store.put(KEYS.segment(1, (FIRST + number) * S, S), b"all of it")
    before = set(store.objects)
    retain(store)
    gone = before - set(store.objects)
    # Those of the last segment were compacted a short while ago, the middle one never was.
    assert gone == {KEYS.wal(Place(1, Lsn(FIRST * S + offset))) for offset in (0, 1000)}


def test_histories_stay_as_long_as_something_is_of_their_timeline() -> None:
    store = MemoryStore()
    put_seed(store, "aa", at=NOW - DAY)
    for timeline in (2, 3, 4):
        store.put(KEYS.history(timeline), b"x")
    put_wal(store, FIRST, at=NOW - DAY, timeline=4)
    retain(store)
    assert KEYS.history(2) in store.objects  # the seed is of timeline 1
    for key in [key for key in store.objects if key.startswith(KEYS.all_seeds)]:
        store.delete([key])
    parts = retain(store, Need(3, FIRST * S, "the applier"))
    left = [key for key in store.objects if key.startswith(KEYS.all_histories)]
    assert left == [KEYS.history(3), KEYS.history(4)]
    assert parts.wal.removed[-1].why == "no WAL of its timeline is left"


def test_locked_wal_is_said_and_tried_again() -> None:
    store = MemoryStore()
    put_wal(store, FIRST - 1, at=NOW - 9 * DAY)
    put_seed(store, "aa", at=NOW - 5 * DAY)
    first = KEYS.wal(Place(1, Lsn((FIRST - 1) * S)))
    store.locked = {first}
    parts = retain(store)
    assert [each.key for each in parts.wal.not_removed] == [first]
    assert first in store.objects
    store.locked = set()
    assert not retain(store).wal.not_removed
    assert segments_in(store) == set()


def test_a_locked_seed_stays_whole_with_the_wal_it_needs() -> None:
    store = MemoryStore()
    put_seed(store, "aa", at=NOW - 9 * DAY)
    put_seed(store, "bb", at=NOW - 5 * DAY)
    put_wal(store, FIRST, at=NOW - 9 * DAY)
    name = list_seeds(store, KEYS)[0].name
    store.locked = {KEYS.seed(name, "end")}
    parts = retain(store)
    assert [each.key for each in parts.seeds.not_removed] == [KEYS.seed(name, "end")]
    assert seeds_in(store) == ["aa", "bb"] and segments_in(store) == {(1, FIRST)}


def test_unfinished_seeds_go_once_they_are_nobody_s() -> None:
    store = MemoryStore()
    put_seed(store, "aa", at=NOW - DAY)
    put_seed(store, "bb", at=NOW - 2 * DAY, finished=False)
    put_seed(store, "cc", at=NOW - 0.5 * DAY, finished=False)
    retain(store)
    assert not any("-bb/" in key for key in store.objects)
    assert any("-cc/" in key for key in store.objects)


def test_the_seed_of_a_running_restore_stays() -> None:
    store = MemoryStore()
    for age, seed_id in enumerate(("dd", "cc", "bb", "aa")):
        put_seed(store, seed_id, at=NOW - (5 + age) * DAY)
    rules = Rules(1, NOW - DAY, NOW)
    retain_bucket(store, KEYS, S, rules, in_use={EVERY_SEED}, dry_run=False)
    assert seeds_in(store) == ["aa", "bb", "cc", "dd"]
    parts = retain_bucket(store, KEYS, S, rules, in_use={"bb"}, dry_run=False)
    assert seeds_in(store) == ["bb", "dd"]
    assert "a restore starts from it" in [group.why for group in parts.seeds.kept]


def test_strange_keys_are_left_alone() -> None:
    store = MemoryStore()
    put_seed(store, "aa", at=NOW - DAY)
    strange = {
        f"{KEYS.all_wal}nonsense",
        f"{KEYS.all_segments}00000001/x",
        f"{KEYS.root}profiles/a",
        f"{KEYS.all_histories}README.t",
        f"{KEYS.all_histories}0x000000",
    }
    store.now = 0
    for key in strange:
        store.put(key, b"x")
    retain(store)
    assert strange <= set(store.objects)

"""Where the log in a bucket ends.  Blocking; used at start-up and after a loss.

The last place that was acknowledged is remembered in the state directory; from there the
objects are followed by name.  Without it the newest finished segment serves, which is made only
once everything before it is stored, or the oldest object of the newest timeline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import structlog

from logship.bucket.keys import Keys, Place, SeedName, parse_timeline
from logship.bucket.seed_archive.documents import END
from logship.bucket.wal_objects import Head, Marker, damaged, read_head
from logship.lsn import Lsn
from logship.objects import ObjectStore
from logship.wal import parse_segment_name, segment_end, segment_start
from shipper.destinations.bucket.remembered import Remembered

log = structlog.get_logger(__name__)


class Chain(NamedTuple):
    """The end of the log."""

    place: Place
    """Where the next object belongs."""
    gap: Marker | None
    """The gap marker that it ends with: what the primary had next could not be shipped."""
    beyond: Mapping[Place, Head]
    """Spans at or after `place`, beyond a hole that a crash left."""
    fresh: bool = False
    """Perhaps nothing of the chain is there yet."""


class Found(NamedTuple):
    """What a shipper needs to know of a bucket before it goes on."""

    chain: Chain | None
    timelines: frozenset[int]
    """Those whose histories are there."""
    seeded_at: float | None
    """When the newest seed was complete, by the store's clock; None: there is none."""
    led_to_lsn: int = 0
    """The log leads over a gap to a seed that starts here, and neither that one nor a newer one
    is complete; 0: to none such."""


def look(
    store: ObjectStore,
    keys: Keys,
    segment_bytes: int,
    *,
    hint: Remembered | None = None,
    distrusted: Place | None = None,
) -> Found:
    """distrusted: the spans at that place and after it were not written by us: take none of
    them without comparing.

    Raises what the store raises, and LogshipError(OBJECT_DAMAGED).
    """
    followed = _find(store, keys, segment_bytes, hint, distrusted)
    chain = None
    led_to_lsn = 0
    if followed is not None:
        start, place, marker, newer_lsn = followed
        is_hint = hint is not None and start == hint.place._replace(step=0)
        if newer_lsn:
            led_to_lsn = newer_lsn
        elif hint is not None and is_hint:
            led_to_lsn = hint.led_to_lsn
        else:
            led_to_lsn = _last_led_to(store, keys, start.timeline)
        gap = marker if marker is not None and marker.kind == "gap" else None
        is_first = place == start and place.lsn % segment_bytes == 0
        fresh = marker is not None or is_first
        chain = Chain(place, gap, _beyond(store, keys, place), fresh)
    seed, seeded_at = _newest_seed(store, keys)
    if seed is not None and seed.start_lsn >= led_to_lsn:
        led_to_lsn = 0
    return Found(chain, frozenset(_timelines(store, keys)), seeded_at, led_to_lsn)


def find_end(
    store: ObjectStore, keys: Keys, segment_bytes: int, hint: Remembered | None
) -> Place | None:
    """Where the log ends; None: there is none.  Raises as `look`."""
    followed = _find(store, keys, segment_bytes, hint, None)
    return None if followed is None else followed.end


class _Followed(NamedTuple):
    """From where to where the log was followed."""

    start: Place
    end: Place
    marker: Marker | None
    """What stands last before the end, if that is one."""
    led_to_lsn: int
    """Where the seed starts that the last such marker on the way names, or 0."""


def _find(
    store: ObjectStore,
    keys: Keys,
    segment_bytes: int,
    hint: Remembered | None,
    distrusted: Place | None,
) -> _Followed | None:
    """None: there is no log."""
    # Markers may stand at the place that is remembered: what the last of them says matters.
    start = hint.place._replace(step=0) if hint else _newest_start(store, keys, segment_bytes)
    if start is None:
        return None
    followed = _follow(store, keys, segment_bytes, start, distrusted)
    if hint is None or distrusted is not None or followed.end > start:
        return followed
    if _is_joined(store, keys, segment_bytes, start):
        return followed
    # Retention has passed the place: the log goes on behind what it removed, or is all gone.
    newest = _newest_start(store, keys, segment_bytes)
    if newest is None or newest <= start:
        return followed
    return _follow(store, keys, segment_bytes, newest, distrusted)


def _is_joined(store: ObjectStore, keys: Keys, segment_bytes: int, place: Place) -> bool:
    """Whether what lies right before the place is still there."""
    before = max(place.lsn - 1, 0)
    first = Place(place.timeline, segment_start(before, segment_bytes))
    for each in store.listing(keys.wal_of(place.timeline), start_after=keys.wal(first)[:-1]):
        with contextlib.suppress(ValueError):
            if Place.parse(each.key.removeprefix(keys.all_wal)) < place:
                return True
            break
    segment = keys.segment(place.timeline, before, segment_bytes)
    return store.describe(segment) is not None


def _timelines(store: ObjectStore, keys: Keys) -> Iterator[int]:
    for each in store.listing(keys.all_histories):
        with contextlib.suppress(ValueError):
            yield keys.timeline_of_history(each.key)


def _follow(
    store: ObjectStore, keys: Keys, segment_bytes: int, start: Place, distrusted: Place | None
) -> _Followed:
    place = start
    marker: Marker | None = None
    led_to_lsn = 0
    while True:
        key = keys.wal(place)
        found = store.describe(key)
        if found is not None:
            head = read_head(found.metadata, place, f"{store.name}: {key}")
            if place == distrusted and head.marker is None:
                break
            following = head.following(place, segment_bytes)
            if following <= place:
                raise damaged(f"{store.name}: {key}", f"the log leads back, to {following}")
            place, marker = following, head.marker
            if marker is not None and marker.kind == "seed":
                led_to_lsn = marker.lsn
            continue
        segment = keys.segment(place.timeline, place.lsn, segment_bytes)
        if place == distrusted or store.describe(segment) is None:
            break
        place, marker = Place(place.timeline, segment_end(place.lsn, segment_bytes)), None
    return _Followed(start, place, marker, led_to_lsn)


def _newest_start(store: ObjectStore, keys: Keys, segment_bytes: int) -> Place | None:
    # What stands there and is not ours is left alone, here and below.
    timelines = set()
    for name in (*store.folders(keys.all_wal), *store.folders(keys.all_segments)):
        with contextlib.suppress(ValueError):
            timelines.add(parse_timeline(name))
    if not timelines:
        return None
    timeline = max(timelines)
    last: Lsn | None = None
    for each in store.listing(keys.segments_of(timeline)):
        with contextlib.suppress(ValueError):
            _, last = parse_segment_name(each.key.rpartition("/")[2], segment_bytes)
    if last is not None:
        return Place(timeline, segment_end(last, segment_bytes))
    for each in store.listing(keys.wal_of(timeline)):
        with contextlib.suppress(ValueError):
            return Place.parse(each.key.removeprefix(keys.all_wal))._replace(step=0)
    return None


def _beyond(store: ObjectStore, keys: Keys, place: Place) -> dict[Place, Head]:
    beyond = {}
    prefix = keys.wal_of(place.timeline)
    # The greatest key below that of `place` itself.
    before = keys.wal(place)[:-1] if not place.step else keys.wal(place._replace(step=0))
    for each in store.listing(prefix, start_after=before):
        try:
            there = Place.parse(each.key.removeprefix(keys.all_wal))
        except ValueError:
            continue
        if there < place:
            continue
        found = store.describe(each.key)
        if found is None:
            continue
        head = read_head(found.metadata, there, f"{store.name}: {each.key}")
        if head.marker is None:
            beyond[there] = head
    if beyond:
        log.warning("objects stand beyond a hole; it is filled", place=str(place), many=len(beyond))
    return beyond


def _last_led_to(store: ObjectStore, keys: Keys, timeline: int) -> int:
    """Where the seed starts that the timeline's last marker of a seed names, or 0."""
    # Nothing but a marker has no body, and markers stay.  What is not ours is left alone.
    places = []
    for each in store.listing(keys.wal_of(timeline)):
        if not each.size_bytes:
            with contextlib.suppress(ValueError):
                places.append(Place.parse(each.key.removeprefix(keys.all_wal)))
    for place in reversed(places):
        key = keys.wal(place)
        found = store.describe(key)
        if found is not None:
            marker = read_head(found.metadata, place, f"{store.name}: {key}").marker
            if marker is not None and marker.kind == "seed":
                return marker.lsn
    return 0


def _newest_seed(store: ObjectStore, keys: Keys) -> tuple[SeedName | None, float | None]:
    """The newest complete one, and when it was that."""
    for folder in reversed(store.folders(keys.all_seeds)):
        try:
            name = SeedName.parse(folder)
        except ValueError:
            continue
        found = store.describe(keys.seed(name, END))
        if found is not None:
            return name, found.modified_at
    return None, None

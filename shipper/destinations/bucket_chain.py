"""Where the log in a bucket ends.  Blocking; used at start-up and after a loss.

The last place that was acknowledged is remembered in the state directory; from there the
objects are followed by name.  Without it the newest finished segment serves, which is made only
once everything before it is stored, or the oldest object of the newest timeline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from logship import durable
from logship.bucket.keys import Keys, Place, SeedName, parse_timeline
from logship.bucket.seed_archive.documents import END
from logship.bucket.wal_objects import Head, Marker, read_head
from logship.documents import UNREADABLE
from logship.identity import Incarnation
from logship.lsn import Lsn
from logship.objects import ObjectStore
from logship.wal import parse_segment_name, segment_end

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


def look(
    store: ObjectStore,
    keys: Keys,
    segment_bytes: int,
    *,
    hint: Place | None = None,
    distrusted: Place | None = None,
) -> Found:
    """hint: a place up to which everything is known to be stored.  distrusted: what stands at
    that place and after it was not written by us: take none of it without comparing.

    Raises what the store raises, and LogshipError(OBJECT_DAMAGED).
    """
    # Markers may stand at the place that is remembered: what the last of them says matters.
    start = hint._replace(step=0) if hint else _newest_start(store, keys, segment_bytes)
    chain = None
    if start is not None:
        place, marker = _follow(store, keys, segment_bytes, start, distrusted)
        gap = marker if marker is not None and marker.kind == "gap" else None
        is_first = place == start and place.lsn % segment_bytes == 0
        fresh = marker is not None or is_first
        chain = Chain(place, gap, _beyond(store, keys, place), fresh)
    return Found(chain, frozenset(_timelines(store, keys)), _seeded_at(store, keys))


def _timelines(store: ObjectStore, keys: Keys) -> Iterator[int]:
    for each in store.listing(keys.all_histories):
        with contextlib.suppress(ValueError):
            yield keys.timeline_of_history(each.key)


def _follow(
    store: ObjectStore, keys: Keys, segment_bytes: int, place: Place, distrusted: Place | None
) -> tuple[Place, Marker | None]:
    """The end, and the marker that stands last before it."""
    marker: Marker | None = None
    while place != distrusted:
        key = keys.wal(place)
        found = store.describe(key)
        if found is not None:
            head = read_head(found.metadata, place, f"{store.name}: {key}")
            place, marker = head.following(place, segment_bytes), head.marker
            continue
        segment = keys.segment(place.timeline, place.lsn, segment_bytes)
        if store.describe(segment) is None:
            break
        place, marker = Place(place.timeline, segment_end(place.lsn, segment_bytes)), None
    return place, marker


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


def _seeded_at(store: ObjectStore, keys: Keys) -> float | None:
    for folder in reversed(store.folders(keys.all_seeds)):
        try:
            name = SeedName.parse(folder)
        except ValueError:
            continue
        found = store.describe(keys.seed(name, END))
        if found is not None:
            return found.modified_at
    return None


# --- what is remembered -------------------------------------------------------------------


class _Hint(msgspec.Struct, frozen=True):
    store: str
    incarnation: str
    timeline: int
    lsn: int
    step: int


def load_hint(file: Path, store: str, incarnation: Incarnation) -> Place | None:
    """Blocking.  None if there is none for that store and incarnation, or none that can be read:
    then the bucket is listed."""
    try:
        hint = msgspec.json.decode(file.read_bytes(), type=_Hint)
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as error:
        log.warning("the last place in the bucket can't be read", error=str(error))
        return None
    if (hint.store, hint.incarnation) != (store, str(incarnation)):
        return None
    return Place(hint.timeline, Lsn(hint.lsn), hint.step)


def save_hint(file: Path, store: str, incarnation: Incarnation, place: Place) -> None:
    """Blocking.  Says it and goes on when it can't: it only saves a listing."""
    hint = _Hint(store, str(incarnation), place.timeline, int(place.lsn), place.step)
    try:
        durable.write_file(file, msgspec.json.encode(hint) + b"\n")
    except OSError as error:
        log.warning("the last place in the bucket can't be written", error=str(error))

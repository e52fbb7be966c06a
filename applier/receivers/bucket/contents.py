"""One instance's objects in a bucket: what is asked of the store, and what is believed of it.

All of it blocks: call it in threads.  Errors name the object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from applier.receivers.bucket.cursor import Arrived, Get
from applier.receivers.bucket.inventory import locate
from logship import __version__
from logship.bucket.keys import Place
from logship.bucket.listing import Item, items_of
from logship.bucket.reading import Bucket, incarnations, newest_incarnation, shipped_at
from logship.bucket.seed_archive import SeedInfo, list_seeds
from logship.bucket.wal_objects import Head, damaged, read_head, unpack
from logship.errors import Code, LogshipError
from logship.frames import PROTOCOL_VERSION, Hello
from logship.identity import Incarnation
from logship.lsn import Lsn, Position
from logship.objects import ObjectStore
from logship.wal import segment_start

SHIPPER_ID: Final = "bucket"
"""What the hello of a reader says in the place of a shipper's id."""


class Greeting(NamedTuple):
    """What a bucket says of its instance's primary."""

    hello: Hello
    profile_digest: str
    """Of the hello's profile, "" if not known."""
    newest: Head | None
    """Of the newest object of WAL."""


def choose_incarnation(
    store: ObjectStore,
    instance: str,
    known: Incarnation | None,
    accepted: Incarnation | None = None,
) -> Incarnation | None:
    """The cluster to read: `accepted` if it is there, else `known`, else the one that was shipped
    last.  None: not there."""
    if accepted is not None and accepted in incarnations(store, instance):
        return accepted
    if known is not None:
        return known if known in incarnations(store, instance) else None
    return newest_incarnation(store, instance)


def newer_incarnation(
    store: ObjectStore, instance: str, known: Incarnation, since: float
) -> Incarnation | None:
    """Another cluster that was first shipped after `known` and after `since`."""
    others = [each for each in incarnations(store, instance) if each != known]
    if not others:
        return None
    since = max(since, shipped_at(store, instance, known))
    at, newest = max((shipped_at(store, instance, each), each) for each in others)
    return newest if at > since else None


class Contents(Bucket):
    """The objects of one incarnation."""

    def prove(self) -> list[SeedInfo]:
        """Open the ends of what will be needed: the newest and the oldest WAL, and each seed, as
        what was sealed before its keys were changed needs the old identity.  Returns the seeds.

        Raises LogshipError: IDENTITY_MISSING, OBJECT_DAMAGED, and of the store.
        """
        profile = self.newest_profile()
        items = self.all_items(profile.wal_segment_size) if profile is not None else []
        wal = [item for item in items if item.size_bytes]
        for key in dict.fromkeys(item.key for item in (*wal[-1:], *wal[:1])):
            fetched = self.store.get(key)
            if fetched is not None:
                self.identities.open(fetched.data, self.where(key))
        return list_seeds(self.store, self.keys, self.identities)

    # --- WAL --------------------------------------------------------------------------------

    def look(self, position: Position, segment_bytes: int) -> list[Item]:
        """What stands at `position`, in its segment, and behind it; where that is nothing, or
        begins behind it, everything that stands in the bucket."""
        start = segment_start(position.lsn, segment_bytes)
        before = Place(position.timeline, Lsn(max(start - 1, 0)))
        items = self._list(
            self.keys.wal(before),
            self.keys.segment(position.timeline, before.lsn, segment_bytes),
            segment_bytes,
        )
        items = [item for item in items if item.place >= (position.timeline, start)]
        if items and items[0].place <= Place(position.timeline, position.lsn):
            return items
        return self.all_items(segment_bytes)

    def all_items(self, segment_bytes: int) -> list[Item]:
        return self._list("", "", segment_bytes)

    def _list(self, after_wal: str, after_segment: str, segment_bytes: int) -> list[Item]:
        wal = self.store.listing(self.keys.all_wal, start_after=after_wal)
        segments = self.store.listing(self.keys.all_segments, start_after=after_segment)
        return items_of([*wal, *segments], self.keys, segment_bytes)

    def head(self, item: Item) -> Head | None:
        """What is said of an object; None if it is gone."""
        described = self.store.describe(item.key)
        if described is None:
            return None
        return read_head(described.metadata, item.place, self.where(item.key))

    def newest_head(self, items: Iterable[Item]) -> Head | None:
        """Of the last object that is still there, and whole."""
        for item in reversed(list(items)):
            try:
                head = self.head(item)
            except LogshipError as error:
                if error.code is not Code.OBJECT_DAMAGED:
                    raise
                continue  # it is said when the reader comes to it
            if head is not None:
                return head
        return None

    def fetch(self, get: Get) -> Arrived | None:
        """An object of WAL; None: there is none.  Its body is not looked at.

        Raises LogshipError: OBJECT_DAMAGED if it is not what belongs under this name.
        """
        fetched = self.store.get(get.key)
        if fetched is None:
            return None
        where = self.where(get.key)
        head = read_head(fetched.metadata, get.place, where)
        if (head.marker is None) != bool(fetched.data):
            raise damaged(where, f"a body of {len(fetched.data)} bytes does not fit its head")
        return Arrived(get, head, fetched.data)

    def open(self, arrived: Arrived, segment_bytes: int) -> bytes:
        """The raw WAL of what was fetched.  Raises OBJECT_DAMAGED, IDENTITY_MISSING."""
        where = self.where(arrived.get.key)
        body = self.identities.open(arrived.body, where)
        return unpack(body, arrived.head, segment_bytes, where)


def make_hello(contents: Contents, position: Position | None) -> Greeting:
    """Introduce the primary to an instance that holds all WAL up to `position` (None: nothing).

    Raises LogshipError: of the store; OBJECT_DAMAGED, retryable if nothing was shipped yet.
    """
    keys = contents.keys
    profile = contents.newest_profile()
    if profile is None:
        error = damaged(contents.where(keys.root), "it holds no profile of a primary")
        error.retryable = True
        raise error
    segment_bytes = profile.wal_segment_size
    digest = ""
    if position is None:
        items = contents.all_items(segment_bytes)
    else:
        items = contents.look(position, segment_bytes)
        # What wrote the WAL that is read first; a change comes with the object that has it.
        first = _first(items, locate(items, position, segment_bytes))
        head = contents.head(first) if first is not None else None
        if head is not None and head.profile:
            profile, digest = contents.profile(head.profile), head.profile
    newest = contents.newest_head(items)
    timeline = (newest.flush_timeline or newest.timeline) if newest is not None else 1
    hello = Hello(
        version_min=PROTOCOL_VERSION,
        version_max=PROTOCOL_VERSION,
        instance=keys.instance,
        shipper_id=SHIPPER_ID,
        boot_id=SHIPPER_ID,
        software=__version__,
        profile=profile,
        timeline=timeline,
        flush_lsn=newest.flush_lsn if newest is not None else 0,
        protection=newest.protection if newest is not None else "async",
    )
    return Greeting(hello, digest, newest)


def _first(items: Sequence[Item], place: Place | None) -> Item | None:
    if place is None:
        return None
    before = [item for item in items if item.place <= place]
    return before[-1] if before else None

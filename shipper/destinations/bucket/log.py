"""The end of a bucket's log, as one connection writes it: spans, markers, histories, profiles.

Everything goes through one queue of uploads, so it stands in the bucket in the order in which
it was given.  Methods are called in one event loop and never wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from logship.bucket.documents import encode_profile
from logship.bucket.keys import Place
from logship.bucket.wal_objects import Head, Marker
from logship.errors import Code, LogshipError
from logship.frames import GapFound, SeedBegin
from logship.identity import Profile
from logship.link.alarm import Alarm
from logship.lsn import Position
from logship.seal import Sealed
from logship.wal import segment_start
from shipper.destinations import Facts
from shipper.destinations.bucket.batches import Batch, Batches, Context
from shipper.destinations.bucket.chain import Chain
from shipper.destinations.bucket.objects import BucketObjects, PackedWal
from shipper.destinations.bucket.remembered import NO_CONTINUATION, Parted
from shipper.destinations.bucket.uploads import RunBlocking, Upload, Uploads


class Limits(NamedTuple):
    """What the log's objects are cut by, and how they are carried."""

    max_delay_seconds: float
    max_object_bytes: int
    uploads_at_once: int
    patience_seconds: float


class BucketLog:
    """`on_stored(place, last)`: everything before `place` is stored, in order; `last` is what was
    stored last.  `on_failed`: nothing is written any more."""

    def __init__(
        self,
        objects: BucketObjects,
        chain: Chain | None,
        parted: Parted | None,
        facts: Facts,
        limits: Limits,
        run_blocking: RunBlocking,
        *,
        on_stored: Callable[[Place, PackedWal | Marker], None],
        on_failed: Callable[[LogshipError], None],
    ) -> None:
        """chain: the end as it was found; None: there is no log yet.  parted: what was found of
        the primary before, if the log ends there."""
        self.facts = facts
        self.in_flight_bytes = 0
        """Raw WAL that was given and is not stored."""
        self._objects = objects
        self._limits = limits
        self._on_stored = on_stored
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._send_due)
        self._uploads = Uploads(
            run_blocking,
            at_once=limits.uploads_at_once,
            patience_seconds=limits.patience_seconds,
            on_done=self._send_due,
            on_failed=on_failed,
        )
        self._batches: Batches | None = None
        self._gap = chain.gap if chain is not None else None
        """The log ends with this."""
        self.parted: Parted | None = None
        """The primary is no continuation of the log, which may be another's."""
        self._alone_next = False
        self._void = True
        self._flush_lsn = 0
        self._profile: tuple[Profile, str] | None = None
        self._profiles: dict[str, bytes] = {}
        """Documents of profiles that are not in the bucket yet, as far as we know."""
        self._profiles_put: set[str] = set()
        if chain is not None:
            self._start(chain.place, chain.beyond, alone=chain.fresh)
            self.parted = parted
            if parted is None and self._gap is not None and self._gap.code in NO_CONTINUATION:
                # Written before a seed that it was to lead to, or by a version that wrote it.
                self.parted = Parted(chain.place, self._gap.code, self._gap.what)

    @property
    def place(self) -> Place | None:
        """Where the next byte of WAL belongs."""
        return self._batches.place if self._batches is not None else None

    @property
    def position(self) -> Position | None:
        place = self.place
        return None if place is None else Position(place.timeline, place.lsn)

    def resume(self, position: Position) -> None:
        self._void = position != self.position or self.parted is not None

    def span(self, timeline: int, start_lsn: int, sealed: Sealed, flush_lsn: int) -> bool:
        """Take WAL.  False: it does not go on where the log ends; nothing was taken."""
        if self._void or self._batches is None:
            return True  # read before the reader heard where to start again
        place = self._batches.place
        if timeline > place.timeline and start_lsn % self._objects.segment_bytes == 0:
            self._leave_timeline(self._batches)
            marker = Marker(kind="timeline", timeline=timeline, lsn=start_lsn)
            self._put_marker(self._batches, marker)
        if (timeline, start_lsn) != (self._batches.place.timeline, self._batches.place.lsn):
            self._void = True
            return False
        self._flush_lsn = flush_lsn
        self._gap = None
        self.in_flight_bytes += sealed.raw_bytes
        self._send(self._batches.add(sealed, self._context(), self._loop.time()))
        self._alarm.set(self._batches.deadline)
        return True

    def hurry(self) -> None:
        """There is no room for more: what is open will not grow."""
        batches = self._batches
        if batches is not None and batches.deadline is not None and self._uploads.has_slot:
            self._send(batches.cut())

    def history(self, timeline: int, content: bytes) -> None:
        run = partial(self._objects.put_history, timeline, content)
        self._uploads.put(Upload(run, alone=True))

    def gap(self, gap: GapFound) -> None:
        """What comes next can't be had from the primary."""
        self._void = True
        if self._batches is None or self._batches.met is not None:
            return  # what is missing stands there, from before a crash
        if gap.code in NO_CONTINUATION:
            self.parted = self.parted or Parted(self._batches.place, gap.code, gap.what)
        elif self._gap is None and self.parted is None:  # else it is said already
            self._gap = Marker(kind="gap", lsn=gap.available_lsn, code=gap.code, what=gap.what)
            self._put_marker(self._batches, self._gap)

    def skip_to(self, position: Position, why: str) -> Position:
        """Go on at `position`, or at the start of its segment, though what lies before is not
        here; where the log ends, if that is not before it.  Returns where, instead of `resume`.
        Not for a primary that has `parted`."""
        segment_bytes = self._objects.segment_bytes
        start = Place(position.timeline, segment_start(position.lsn, segment_bytes))
        if self._batches is None:
            self._start(start, alone=True)
        elif start > self._batches.place:  # who follows a marker back comes to it again
            if self._gap is None:
                gap = Marker(kind="gap", lsn=position.lsn, code=str(Code.WAL_GAP), what=why)
                self._put_marker(self._batches, gap)
            marker = Marker(kind="timeline", timeline=position.timeline, lsn=position.lsn)
            self._put_marker(self._batches, marker)
            self._gap = None
        self._void = False
        reached = self.position
        assert reached is not None
        return reached

    def turn_to(self, begin: SeedBegin, *, mend: bool) -> Position | None:
        """There is a seed: have the log lead to it.  Returns where WAL must be read from now;
        None: where it is read from already, or from nowhere.

        mend: a log that ends with a gap after the seed's start is gone on with where it ends:
        the primary has again what was missing.  Never after what is no continuation.
        """
        segment_bytes = self._objects.segment_bytes
        start = Place(begin.timeline, segment_start(begin.start_lsn, segment_bytes))
        if self._batches is None:
            self._start(start, alone=True)
        elif self._gap is None and self.parted is None:
            return None
        elif start > self._batches.place:
            marker = Marker(
                kind="seed", timeline=begin.timeline, lsn=begin.start_lsn, seed=begin.seed_id
            )
            if self.parted is not None and self._gap is None:
                # There is a seed of this primary, so the log is its own from here on.
                parted = Marker(kind="gap", code=self.parted.code, what=self.parted.what)
                self._put_marker(self._batches, parted)
            self._put_marker(self._batches, marker)
            self._gap = self.parted = None
        elif not mend or self.parted is not None:
            return None
        self._void = True
        return self.position

    def stop(self) -> None:
        """Write nothing more."""
        self._alarm.cancel()
        self._uploads.stop()

    # --- inside -----------------------------------------------------------------------------

    def _leave_timeline(self, batches: Batches) -> None:
        """What a crash left beyond a hole may go on where this timeline did not: a primary that
        died while it shipped, and was followed by its standby."""
        stray = batches.met
        if stray is not None:
            self._uploads.put(Upload(partial(self._objects.remove_stray, stray), alone=True))
            self._send(batches.cut_short())

    def _start(
        self, place: Place, beyond: Mapping[Place, Head] | None = None, *, alone: bool
    ) -> None:
        self._alone_next = alone
        self._batches = Batches(
            place,
            segment_bytes=self._objects.segment_bytes,
            max_object_bytes=self._limits.max_object_bytes,
            max_delay_seconds=self._limits.max_delay_seconds,
            beyond=beyond,
        )

    def _context(self) -> Context:
        profile = self.facts.profile
        if self._profile is None or self._profile[0] != profile:
            digest, content = encode_profile(profile)
            self._profile = profile, digest
            self._profiles[digest] = content
        return Context(self._flush_lsn, self.facts.timeline, self._profile[1])

    def _put_marker(self, batches: Batches, marker: Marker) -> None:
        self._send(batches.cut())
        place, context = batches.place, self._context()
        self._put_profile(context.profile)
        head = self._objects.head(place, context, marker=marker)
        following = head.following(place, self._objects.segment_bytes)
        run = partial(self._objects.put_marker, place, marker, context)
        done = partial(self._on_stored, following, marker)
        self._uploads.put(Upload(run, alone=True, done=done))
        self._start(following, alone=True)

    def _send_due(self) -> None:
        batches = self._batches
        if batches is None:
            return
        # While all slots are taken the batch grows instead: so objects are large under load.
        if self._uploads.has_slot:
            self._send(batches.due(self._loop.time()))
            self._alarm.set(batches.deadline)

    def _send(self, due: list[Batch]) -> None:
        for batch in due:
            self._put_profile(batch.context.profile)
            packed = PackedWal(self._objects, batch)
            alone, self._alone_next = self._alone_next, False
            done = partial(self._wal_stored, packed)
            self._uploads.put(Upload(packed.put, alone=alone, done=done))

    def _put_profile(self, digest: str) -> None:
        if digest not in self._profiles_put:
            self._profiles_put.add(digest)
            run = partial(self._objects.put_profile, digest, self._profiles.pop(digest))
            self._uploads.put(Upload(run, alone=True))

    def _wal_stored(self, packed: PackedWal) -> None:
        self.in_flight_bytes -= packed.batch.raw_bytes
        self._on_stored(packed.batch.end, packed)

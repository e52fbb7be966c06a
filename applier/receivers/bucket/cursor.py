"""Where a reader is in a bucket, and what it does next.  No I/O; `now` is passed in.

The cursor stands at a `Place` and wants the object of that place, or the finished segment that
holds it.  Each event returns commands for the shell.  Answers may come in any order; what is
handed on goes in the order of the WAL.  What comes next on a known list is fetched ahead, as
much as `window_bytes` allows; of what is fetched two objects at most are open (decrypted,
decompressed) at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from applier.receivers.bucket.inventory import ahead_of, beyond, locate
from logship.bucket.keys import Keys, Place
from logship.bucket.listing import Item
from logship.bucket.wal_objects import Head, damaged
from logship.errors import LogshipError
from logship.lsn import Lsn, Position
from logship.wal import segment_end, segment_start

PARALLEL_GETS: Final = 8
OPEN_AT_ONCE: Final = 2
UNKNOWN_BYTES: Final = 16 * 1024 * 1024
"""What an object may take whose size no listing told."""
OVERLAP_BYTES: Final = 64 * 1024
"""Of what is held already, so much is handed on again: the store compares it."""
RELOOK_SECONDS: Final = 60.0
"""After so long without an answer what stands at the place may have been compacted, and
removed: a listing tells."""
HOLE_SECONDS: Final = 10.0
"""After so long to look whether a hole was filled; then after twice that, and so on."""
MAX_HOLE_SECONDS: Final = 300.0
MAX_PAUSE_SECONDS: Final = 30.0
_PROBE_POLLS: Final = 60
"""Every so many polls that find nothing, one asks for the finished segment instead: a reader may
have been too slow for a small object."""
_HITS_BEHIND: Final = 3
"""Objects that no listing showed, found one after the other: the reader is behind."""


class Get(NamedTuple):
    """Fetch this object: answer `came`, `absent` or `failed`."""

    key: str
    place: Place
    is_segment: bool
    size_bytes: int
    """What it is reckoned to take."""


class Arrived(NamedTuple):
    get: Get
    head: Head
    body: bytes
    """As it is stored."""


class Open(NamedTuple):
    """Decrypt and decompress: answer `opened` or `failed`."""

    arrived: Arrived


class HandOn(NamedTuple):
    """Give it to the intake: answer `handed_on`.  One at a time."""

    arrived: Arrived
    start_lsn: Lsn
    raw: memoryview | None
    """From `start_lsn` on; None: a marker, or nothing in it is new."""


class Look(NamedTuple):
    """List what stands at the intake's position and behind it: answer `begin`."""


class Dry(NamedTuple):
    """Everything that is there was handed on."""


class Hole(NamedTuple):
    """What comes next is not there, though something stands behind it."""

    start: Position
    available: Place


class Failed(NamedTuple):
    """The next object can't be had; it is tried again by itself."""

    error: LogshipError


Command = Get | Open | HandOn | Look | Dry | Hole | Failed


class Cursor:
    """See the module.  `deadline`: when to call `timer`; None: an answer comes first."""

    def __init__(
        self, keys: Keys, segment_bytes: int, *, poll_seconds: float, window_bytes: int
    ) -> None:
        self.place: Place | None = None
        self.deadline: float | None = None
        self._keys = keys
        self._segment_bytes = segment_bytes
        self._poll_seconds = poll_seconds
        self._window_bytes = window_bytes
        self._position: Position | None = None
        self._items: dict[str, Item] = {}
        """By key: what the last listing showed from the place on, and was not found to be gone
        since."""
        self._in_order: deque[Item] = deque()
        """The same, and perhaps some that are gone."""
        self._ahead: deque[Item] = deque()
        self._flying: dict[str, Get] = {}
        self._held: dict[str, Arrived] = {}
        self._opening: set[str] = set()
        self._opened: dict[str, bytes] = {}
        self._spent: set[str] = set()
        """Finished segments that turned out to end before what is wanted."""
        self._handing: Arrived | None = None
        self._looking = True
        self._looked_at: Place | None = None
        """Where the last listing was made because something was not there."""
        self._hole_seconds = HOLE_SECONDS
        self._failures = 0
        self._hits = 0
        self._dry_polls = 0
        self._answered_at = 0.0
        self._no_guesses_until = 0.0

    @property
    def window_used_bytes(self) -> int:
        """What is fetched, or on its way, and not yet handed on; as stored."""
        return sum(get.size_bytes for get in self._flying.values()) + sum(
            len(arrived.body) for arrived in self._held.values()
        )

    @property
    def remembered(self) -> int:
        """How many objects of the last listing are still of interest."""
        return len(self._items)

    # --- events -----------------------------------------------------------------------------

    def begin(self, position: Position, items: Sequence[Item], now: float) -> list[Command]:
        """Go on from `position`, with what a listing shows from there on (answers Look)."""
        self._looking = False
        if position != self._position:
            self._position, self._hole_seconds = position, HOLE_SECONDS
        self._items = {item.key: item for item in items}
        self._in_order = deque(items)
        self._spent.clear()
        self._answered_at = now
        self.deadline = None
        self.place = locate(items, position, self._segment_bytes)
        if self.place is None:
            self._ahead.clear()
            first = beyond(items, position)
            self._look_again(now)
            return [Dry()] if first is None else [Hole(position, first.place)]
        self._ahead = deque(ahead_of(items, self.place, self._segment_bytes))
        self._forget_passed()
        return self._go_on(now)

    def came(self, get: Get, head: Head, body: bytes, now: float) -> list[Command]:
        if head.following(get.place, self._segment_bytes) <= get.place:
            # Who went there would come back, again and again.
            return self.failed(get.key, damaged(get.key, "the log leads back from here"), now)
        self._flying.pop(get.key, None)
        self._held[get.key] = Arrived(get, head, body)
        self._failures = 0
        if get.place == self.place:
            self._answered_at = now
        self._forget_passed()
        return self._go_on(now)

    def absent(self, get: Get, now: float) -> list[Command]:
        self._flying.pop(get.key, None)
        self._failures = 0
        wanted = self._is_wanted(get)
        listed = self._items.pop(get.key, None) is not None
        if not wanted:
            if get.is_segment and not listed and not self._flying:
                return self._dry(now)
            if not listed:
                self._no_guesses_until = now + 2 * self._poll_seconds
            return self._go_on(now)
        silent_seconds = now - self._answered_at
        self._answered_at = now
        self._hits = 0
        if listed or silent_seconds > RELOOK_SECONDS:
            return self._look()
        later = self._later()
        if later is None:
            return self._dry(now)
        if self._looked_at != self.place:
            self._looked_at = self.place
            return self._look()
        self._look_again(now)
        assert self._position is not None
        return [Hole(self._position, later.place)]

    def _dry(self, now: float) -> list[Command]:
        self._dry_polls += 1
        self.deadline = now + self._poll_seconds
        return [Dry()]

    def failed(self, key: str, error: LogshipError, now: float) -> list[Command]:
        """A Get or an Open of `key` failed; nothing of it is used."""
        get = self._flying.pop(key, None) or (self._held[key].get if key in self._held else None)
        self._drop(key)
        self.deadline = now + self._pause_seconds()
        # What was fetched ahead is asked for again when its turn comes.
        return [Failed(error)] if get is not None and self._is_wanted(get) else []

    def look_failed(self, error: LogshipError, now: float) -> list[Command]:
        """The listing (Look) could not be made."""
        self._look_at(now + self._pause_seconds())
        return [Failed(error)]

    def opened(self, key: str, raw: bytes, now: float) -> list[Command]:
        if key in self._opening:
            self._opening.discard(key)
            self._opened[key] = raw
        return self._go_on(now)

    def handed_on(self, position: Position, now: float) -> list[Command]:
        """The intake took what HandOn gave, and holds all up to `position`."""
        arrived, self._handing = self._handing, None
        assert arrived is not None
        if arrived.get.key not in self._items:
            self._hits += 1
        if position != self._position:
            self._position, self._looked_at, self._dry_polls = position, None, 0
            self._hole_seconds = HOLE_SECONDS
        self.place = self._following(arrived)
        self._answered_at = now
        if not arrived.get.is_segment:
            self._drop(arrived.get.key)
        self._forget_passed()
        return self._go_on(now)

    def timer(self, now: float) -> list[Command]:
        """The time has come (or not: then nothing)."""
        if self.deadline is None or now < self.deadline:
            return []
        self.deadline = None
        if self.place is None or self._looking:
            return self._look()
        if self._dry_polls >= _PROBE_POLLS and not self.place.step:
            self._dry_polls = 0
            return self._ask(self._get_of_segment(self.place, self._unknown_bytes))
        return self._go_on(now)

    def hurry(self, now: float) -> list[Command]:
        """Wait for nothing: look, or ask, at once."""
        if self.deadline is not None:
            self.deadline = now
        return []

    # --- what comes next --------------------------------------------------------------------

    def _go_on(self, now: float) -> list[Command]:
        if self._looking or self.place is None:
            return []
        commands: list[Command] = []
        here = self._holder(self.place)
        if here is not None:
            commands += self._hand_on(here)
            commands += self._open_next(here)
        if self.deadline is None:
            if here is None:
                commands += self._ask(self._get_of(self.place))
            commands += self._fetch_ahead(now)
        return commands

    def _hand_on(self, here: Arrived) -> list[Command]:
        if self._handing is not None:
            return []
        raw = self._opened.get(here.get.key)
        start = self._new_from(here)
        if start is None:
            self._handing = here
            return [HandOn(here, Lsn(here.head.start_lsn), None)]
        if raw is None:
            return []
        self._handing = here
        return [HandOn(here, start, memoryview(raw)[start - here.head.start_lsn :])]

    def _new_from(self, arrived: Arrived) -> Lsn | None:
        """From where on to hand on a span; None: a marker, or all of it is held already."""
        head, held = arrived.head, self._position
        assert held is not None
        if head.marker is not None or head.timeline < held.timeline:
            return None
        if head.timeline > held.timeline:
            return Lsn(head.start_lsn)
        if head.end_lsn <= held.lsn:
            return None
        return Lsn(max(head.start_lsn, held.lsn - OVERLAP_BYTES))

    def _open_next(self, here: Arrived) -> list[Command]:
        """Open the object of the place, and the one behind it."""
        commands: list[Command] = []
        arrived: Arrived | None = here
        for _ in range(OPEN_AT_ONCE):
            if arrived is None:
                break
            key = arrived.get.key
            if not self._is_open(key) and self._new_from(arrived) is not None:
                self._opening.add(key)
                commands.append(Open(arrived))
            arrived = self._holder(self._following(arrived))
        return commands

    def _fetch_ahead(self, now: float) -> list[Command]:
        commands: list[Command] = []
        while self._ahead and self._has_room(self._ahead[0].size_bytes):
            item = self._ahead.popleft()
            commands += self._ask(Get(item.key, item.place, item.is_segment, item.size_bytes))
        if not self._ahead and self._hits >= _HITS_BEHIND and now >= self._no_guesses_until:
            commands += self._guess()
        return commands

    def _guess(self) -> list[Command]:
        """Behind, with no list: the first objects of the segments ahead have names that can be
        reckoned."""
        assert self.place is not None
        commands: list[Command] = []
        start = segment_end(self.place.lsn, self._segment_bytes)
        for number in range(min(self._hits - _HITS_BEHIND + 1, PARALLEL_GETS)):
            place = Place(self.place.timeline, Lsn(start + number * self._segment_bytes))
            if not self._has_room(self._unknown_bytes):
                break
            commands += self._ask(Get(self._keys.wal(place), place, False, self._unknown_bytes))
        return commands

    def _ask(self, get: Get) -> list[Command]:
        if get.key in self._flying or get.key in self._held or get.key in self._spent:
            return []
        self._flying[get.key] = get
        return [get]

    def _get_of(self, place: Place) -> Get:
        """What to fetch for `place`: a finished segment if the listing showed one."""
        if not place.step:
            key = self._keys.segment(place.timeline, place.lsn, self._segment_bytes)
            item = self._items.get(key)
            if item is not None and key not in self._spent:
                return self._get_of_segment(place, item.size_bytes)
        return Get(self._keys.wal(place), place, False, self._unknown_bytes)

    def _get_of_segment(self, place: Place, size_bytes: int) -> Get:
        key = self._keys.segment(place.timeline, place.lsn, self._segment_bytes)
        start = segment_start(place.lsn, self._segment_bytes)
        return Get(key, Place(place.timeline, start), True, size_bytes)

    def _is_wanted(self, get: Get) -> bool:
        return self.place is not None and self._get_of(self.place).key == get.key

    def _has_room(self, size_bytes: int) -> bool:
        if len(self._flying) >= PARALLEL_GETS:
            return False
        return self.window_used_bytes + size_bytes <= self._window_bytes

    @property
    def _unknown_bytes(self) -> int:
        return min(UNKNOWN_BYTES, self._segment_bytes)

    def _holder(self, place: Place) -> Arrived | None:
        """What was fetched and holds `place`."""
        small = self._held.get(self._keys.wal(place))
        if place.step:
            return small
        key = self._keys.segment(place.timeline, place.lsn, self._segment_bytes)
        segment = self._held.get(key)
        if segment is None or not segment.head.start_lsn <= place.lsn < segment.head.end_lsn:
            return small
        if small is None or (self._is_open(key) and not self._is_open(small.get.key)):
            # The other one besides would be one too many.
            return segment
        return small

    def _is_open(self, key: str) -> bool:
        return key in self._opening or key in self._opened

    def _following(self, arrived: Arrived) -> Place:
        return arrived.head.following(arrived.get.place, self._segment_bytes)

    def _later(self) -> Item | None:
        assert self.place is not None and self._position is not None
        here = max(self.place[:2], tuple(self._position))
        there = (item for item in self._in_order if item.key in self._items)
        return beyond(there, Position(here[0], Lsn(here[1])))

    def _look(self) -> list[Command]:
        self._looking = True
        self.deadline = None
        return [Look()]

    def _look_at(self, when: float) -> None:
        self._looking = True
        self.deadline = when

    def _look_again(self, now: float) -> None:
        """Something is not there, and may come later."""
        self._look_at(now + self._hole_seconds)
        self._hole_seconds = min(2 * self._hole_seconds, MAX_HOLE_SECONDS)

    def _forget_passed(self) -> None:
        """Let go of what the cursor has gone past."""
        assert self.place is not None
        for key, (get, head, _) in list(self._held.items()):
            if self._handing is not None and key == self._handing.get.key:
                continue
            if get.is_segment and (head.timeline, head.end_lsn) <= self.place[:2]:
                self._spent.add(key)
                self._drop(key)
            elif not get.is_segment and get.place < self.place:
                self._drop(key)
        while self._ahead and self._is_passed(self._ahead[0]):
            self._ahead.popleft()
        while self._in_order and self._is_passed(self._in_order[0]):
            passed = self._in_order.popleft()
            if passed.key not in self._flying:
                self._items.pop(passed.key, None)

    def _is_passed(self, item: Item) -> bool:
        assert self.place is not None
        if not item.is_segment:
            return item.place < self.place
        return (item.place.timeline, item.place.lsn + self._segment_bytes) <= self.place[:2]

    def _pause_seconds(self) -> float:
        pause = min(self._poll_seconds * float(1 << self._failures), MAX_PAUSE_SECONDS)
        self._failures = min(self._failures + 1, 16)
        return pause

    def _drop(self, key: str) -> None:
        self._held.pop(key, None)
        self._opening.discard(key)
        self._opened.pop(key, None)

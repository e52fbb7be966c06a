"""The sender of an instance's WAL, and the primary as far as the sender speaks of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import structlog

from applier.operations.record import Heard
from logship.errors import LogshipError
from logship.frames import Hello, OtherRoad, ShipperHeartbeat
from logship.identity import Profile

if TYPE_CHECKING:
    from applier.operations.instance import Instance

log = structlog.get_logger(__name__)

HEARD_SAVE_SECONDS = 1.0
"""How often at most the primary's last known flush position is written down."""


class LinkState(msgspec.Struct):
    """The sender, as last heard.  Times are seconds since the epoch."""

    state: str = "never"
    since: float | None = None
    heard_at: float | None = None
    """Monotonic, as it decides what is still true: a step of the clock must not."""
    primary_reachable: bool | None = None
    sync_state: str = ""
    slot_wal_status: str = ""
    other_roads: Sequence[OtherRoad] | None = None
    """Where else it ships to, and how that goes; None: it has not said yet."""

    def changed(self, state: str) -> None:
        if self.state != state:
            self.state = state
            self.since = time.time()


class Sender:
    """What it says counts only of the primary that wrote the newest WAL held here, or writes
    what comes next: another one's settings would open the gate for that WAL, and its position
    would hide what is missing of it."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.link = LinkState()
        self.heard: Heard | None = None
        self.behind_since: float | None = None
        """Since when (monotonic) the store lacks something the primary was heard to have."""
        self.set_aside_profile: Profile | None = None
        """What its primary is said to be, and nothing may be decided by yet: that one was left
        behind, or is away."""
        self._said_timeline = 0
        """What it said its primary to be on."""
        self._heard_saved_at = 0.0

    def recall(self, heard: Heard | None) -> None:
        """What an earlier process wrote down."""
        self.heard = heard
        if heard is not None and self.link.state == "never":
            self.link.state, self.link.since = "lost", heard.at

    def begin_anew(self, heard: Heard | None) -> None:
        """Another cluster is meant from here on; `heard` is what is known of its primary."""
        self.heard = heard
        self.behind_since = None
        self.set_aside_profile = None
        self._said_timeline = 0

    def is_left_behind(self, timeline: int) -> bool:
        """Whether a primary on `timeline` is one that the WAL held here has gone on without:
        after a fail-over the old one may be up again, or may never have been down."""
        store = self._instance.store
        written = store.written if store is not None else None
        return written is not None and timeline < written.timeline

    def is_believed(self, hello: Hello) -> bool:
        """Whether the hello's profile is that of the primary that counts; else keeps it aside.

        The store must be settled: what it holds decides.
        """
        self._said_timeline = hello.timeline
        left_behind = self.is_left_behind(hello.timeline)
        if left_behind and hello.primary_reachable:
            log.warning(
                "the sender's primary was left behind",
                instance=self._instance.name,
                its_timeline=hello.timeline,
                stored=str(self._instance.opened_store.written),
            )
        believed = hello.primary_reachable and not left_behind
        self.set_aside_profile = None if believed else hello.profile
        return believed

    def is_news(self, profile: Profile) -> bool:
        """Whether a changed profile counts at once; else keeps it aside."""
        believed = not self.is_left_behind(self._said_timeline)
        self.set_aside_profile = None if believed else profile
        return believed

    def taken_up(self, timeline: int) -> Profile | None:
        """What is kept aside, if its primary writes, or seeds, what comes next on `timeline`."""
        profile = self.set_aside_profile
        if profile is None or self.is_left_behind(timeline):
            return None
        self._said_timeline = max(timeline, self._said_timeline)
        return profile

    def connected(self, hello: Hello) -> None:
        self.link.changed("connected")
        self.link.primary_reachable = hello.primary_reachable
        self.link.other_roads = None
        self.heard_from(hello.timeline, hello.flush_lsn if hello.primary_reachable else 0)

    def heard_from(self, timeline: int, flush_lsn: int) -> None:
        """See `applier.receivers.Intake`."""
        self.link.heard_at = time.monotonic()
        self._said_timeline = timeline
        if (
            flush_lsn
            and not self.is_left_behind(timeline)
            and not self._is_old(timeline, flush_lsn)
        ):
            self.heard = Heard(timeline=timeline, lsn=flush_lsn, at=time.time())
            self.note_exposure()

    def _is_old(self, timeline: int, flush_lsn: int) -> bool:
        """A sender whose primary is away says how far that has written at least, by what was
        archived, or repeats itself: neither takes back what was heard, nor makes it new."""
        if self.heard is None or self.link.primary_reachable is not False:
            return False
        return (timeline, flush_lsn) <= (self.heard.timeline, self.heard.lsn)

    def heard_with_span(self, timeline: int, flush_lsn: int) -> None:
        """See `applier.receivers.Intake`: the sender may still be catching up."""
        self.heard_from(max(timeline, self._said_timeline), flush_lsn)

    def heard_then(self, timeline: int, flush_lsn: int, at: float) -> None:
        """The flush position as it was at `at` by the sender's clock: old news, which counts only
        if nothing newer was heard."""
        if not flush_lsn or self.is_left_behind(timeline):
            return
        heard = Heard(timeline=timeline, lsn=flush_lsn, at=min(at or time.time(), time.time()))
        known = self.heard
        if known is None or (timeline, flush_lsn, heard.at) > (known.timeline, known.lsn, known.at):
            self.heard = heard
            self.note_exposure()

    def save_while_behind(self) -> None:
        """A flush saves what was heard too, but there is none while the disk is full, nor while
        no WAL comes."""
        if self.behind_since is not None:
            self.save_now_and_then()

    def heartbeat(self, heartbeat: ShipperHeartbeat) -> None:
        self.link.primary_reachable = heartbeat.primary_reachable
        self.link.sync_state = heartbeat.sync_state
        self.link.slot_wal_status = heartbeat.slot_wal_status
        self.link.other_roads = heartbeat.other_roads
        self.heard_from(heartbeat.timeline, heartbeat.flush_lsn)
        self.save_while_behind()

    def note_exposure(self) -> None:
        """What was heard, or what is durable, has changed."""
        if self.heard is None:
            return
        store = self._instance.store
        durable = store.durable if store is not None else None
        if durable is not None and durable >= (self.heard.timeline, self.heard.lsn):
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = time.monotonic()

    def save_now_and_then(self) -> None:
        """Write down what was heard, beside whatever else is going on."""
        if time.monotonic() - self._heard_saved_at >= HEARD_SAVE_SECONDS:
            self._instance.spawn(self.save_heard())

    async def save_heard(self) -> None:
        self._heard_saved_at = time.monotonic()
        if self.heard is not None and self.heard != self._instance.record.heard:
            with contextlib.suppress(LogshipError):
                await self._instance.remember(heard=self.heard)

"""Destination `link`: a DEALER to an applier, one session for each connection.

The shell around `ShipperSession`: a timer and two conditions (room, events).  `link_seeds`
keeps what the applier has not acknowledged of a seed over a cut of the connection.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import structlog

from logship import __version__
from logship.errors import Code, LogshipError
from logship.frames import (
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    GapFound,
    Hello,
    Payload,
    SeedAborted,
    SeedBegin,
    SeedChunk,
    SeedEnd,
    ShipperHeartbeat,
)
from logship.link import events as link
from logship.link.alarm import Alarm
from logship.link.keys import KeyPair
from logship.link.shipper_session import ShipperSession
from logship.link.transport import Dealer
from logship.link.windows import SeedItem
from logship.lsn import Lsn, Position
from logship.seal import Sealed
from shipper.destinations import (
    Accepted,
    Acked,
    DestinationEvent,
    Facts,
    Lost,
    Rewind,
    SeedFinished,
    SeedWanted,
)
from shipper.destinations.changes import Change
from shipper.destinations.link_seeds import LinkSeeds

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_SECONDS = 10.0


class ShipperIdentity(NamedTuple):
    """Who we are in a hello: see `logship.frames.Hello`."""

    instance: str
    shipper_id: str
    boot_id: str
    protection: str


class LinkDestination:
    """See `shipper.destinations.Destination`."""

    far_end = "the applier"

    def __init__(
        self,
        endpoint: str,
        *,
        server_public_key: str,
        keys: KeyPair,
        identity: ShipperIdentity,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    ) -> None:
        self._endpoint = endpoint
        self._server_public_key = server_public_key
        self._keys = keys
        self._identity = identity
        self._connect_timeout_seconds = connect_timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._dealer: Dealer | None = None
        self._session: ShipperSession | None = None
        self._alarm = Alarm(self._on_timer)
        self._facts: Facts | None = None
        self._said: Facts | None = None
        self._flush_lsn = 0
        """What the last span since then said of the primary, 0 if none came: no heartbeat and no
        hello may take it back."""
        self._events: deque[DestinationEvent] = deque()
        self._acked: Acked | None = None
        self.on_acked: Callable[[Acked], None] | None = None
        self._told = Change()
        """For `next_event`."""
        self._changed = Change()
        """For `room` and `send_seed`."""
        self._greeting: asyncio.Future[Accepted] | None = None
        self._seeds = LinkSeeds()
        self._away = False
        """The connection only says that the primary is away: a seed goes on with the next."""
        self._void = False
        """The session was set back: spans are of no use until `resume` answers the Rewind."""

    # --- connecting -----------------------------------------------------------------------

    async def connect(self, facts: Facts) -> Accepted:
        self._drop()
        self._events.clear()
        self._acked = None
        if not _is_same(self._facts, facts):
            self._flush_lsn = 0
        self._facts = self._said = facts
        self._away = not facts.reachable
        self._dealer = Dealer(
            self._endpoint,
            server_public_key=self._server_public_key,
            keys=self._keys,
            on_message=self._received,
            on_closed=self._closed,
        )
        await self._dealer.connect(self._connect_timeout_seconds)
        now = self._loop.time()
        self._session = ShipperSession(self._hello(facts), now=now)
        self._greeting = self._loop.create_future()
        self._take(self._session.start(now))
        try:
            return await self._greeting
        finally:
            self._greeting = None

    def _hello(self, facts: Facts) -> Hello:
        return Hello(
            version_min=OLDEST_PROTOCOL_VERSION,
            version_max=PROTOCOL_VERSION,
            instance=self._identity.instance,
            shipper_id=self._identity.shipper_id,
            boot_id=self._identity.boot_id,
            software=__version__,
            profile=facts.profile,
            timeline=facts.timeline,
            flush_lsn=max(facts.flush_lsn, self._flush_lsn),
            protection=self._identity.protection,
            seed_id=self._seeds.seed_id,
            primary_reachable=facts.reachable,
        )

    def _welcomed(self, event: link.Welcomed) -> None:
        welcome = event.welcome
        resumed = not self._away and self._resume_seed(
            welcome.seed_id, welcome.seed_sequence, done=welcome.seed_done
        )
        accepted = Accepted(
            position=self._session.sent if self._session is not None else None,
            known_timelines=frozenset(welcome.known_timelines),
            seed_wanted=welcome.seed_wanted and not resumed,
            max_span_bytes=self._session.max_span_bytes if self._session is not None else 0,
            durable=self._session.durable if self._session is not None else None,
        )
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_result(accepted)

    # --- sending --------------------------------------------------------------------------

    def tell(self, facts: Facts) -> None:
        before, told, self._facts = self._said, self._facts, facts
        if not _is_same(told, facts):
            self._flush_lsn = 0
        session = self._session
        if session is None or session.closed or session.welcome is None or before is None:
            return
        # Positions go along with spans and regular heartbeats: they alone are no news.
        if _news(facts._replace(profile=before.profile)) != _news(before):
            self._heartbeat()
        # After its timeline: by that the far end knows whether it is the primary that counts.
        if facts.profile != before.profile and not session.closed:
            self._send(session.profile(facts.profile, self._loop.time()))
        self._said = facts._replace(flush_lsn=before.flush_lsn)

    async def room(self, size_bytes: int) -> None:
        while True:
            session = self._open_session()
            if session.window_room_bytes >= size_bytes:
                return
            await self._changed.wait()

    def resume(self, position: Position) -> None:
        self._void = self._session is not None and self._session.sent != position

    def send_span(self, timeline: int, start_lsn: int, sealed: Sealed, flush_lsn: int) -> None:
        session = self._open_session()
        if self._void:
            return  # read before the reader heard that it must start again elsewhere
        self._flush_lsn = flush_lsn
        self._send(
            session.span(
                timeline,
                start_lsn,
                sealed,
                self._loop.time(),
                flush_lsn=flush_lsn,
                sent_at=time.time(),
            )
        )

    def send_history(self, timeline: int, content: bytes) -> None:
        self._send(self._open_session().history(timeline, content, self._loop.time()))

    def send_gap(self, gap: GapFound) -> None:
        self._send(self._open_session().gap(gap, self._loop.time()))

    async def close(self, reason: str) -> None:
        session, dealer = self._session, self._dealer
        if session is not None and dealer is not None and not session.closed:
            try:
                for output in session.bye(reason):
                    if isinstance(output, link.Send):
                        dealer.send(output.parts())
                await dealer.finish()
            except LogshipError as error:
                log.debug("could not say goodbye", error=error.what)
        self._drop()

    # --- seeds ----------------------------------------------------------------------------

    async def send_seed(
        self, frame: SeedBegin | SeedChunk | SeedEnd | SeedAborted, payload: Payload
    ) -> None:
        match frame:
            case SeedBegin():
                self._seeds.begin(frame)
                # With no connection `_resume_seed` begins it on the next one.
                self._send_seed_items([(frame, None)])
            case SeedAborted():
                self._seeds.forget()
                if (session := self._session_for_seeds) is not None:
                    self._send(session.seed(frame, self._loop.time()))
            case SeedChunk() | SeedEnd():
                while not self._seeds.has_room:
                    await self._changed.wait()
                self._send_seed_items([(frame, self._seeds.add(frame, payload))])

    @property
    def _session_for_seeds(self) -> ShipperSession | None:
        session = self._session
        if session is None or session.welcome is None or session.closed or self._away:
            return None
        return session

    def _send_seed_items(self, items: Sequence[SeedItem]) -> None:
        """Send them while there is a connection; the outbox has them for the next one."""
        for frame, payload in items:
            session = self._session_for_seeds
            if session is None:
                return
            self._send(session.seed(frame, self._loop.time(), payload))
            if isinstance(frame, SeedBegin) and session.sent is not None and not session.closed:
                self._rewind(session.sent, "a seed begins here")

    def _resume_seed(self, seed_id: str, sequence: int, *, done: bool) -> bool:
        """After a welcome: go on with the seed that a cut interrupted.  False: there is none."""
        ours = self._seeds.seed_id
        if not ours:
            return False
        if done:
            self._seeds.forget()
            self._tell_event(SeedFinished(ours, ""))
            return False
        pending = self._seeds.resume(seed_id, sequence)
        if pending is None:
            self._fail_seed("the applier no longer has the beginning of the seed")
            return False
        log.info("going on with the seed", seed_id=ours, chunk=sequence)
        self._send_seed_items(pending)
        return True

    def _fail_seed(self, why: str) -> None:
        if seed_id := self._seeds.fail(why):
            self._tell_event(SeedFinished(seed_id, why))

    def _take_seed(
        self, output: link.SeedRequested | link.SeedAcked | link.SeedFinished | link.SeedStopped
    ) -> None:
        match output:
            case link.SeedRequested(why):
                self._tell_event(SeedWanted(why))
            case link.SeedAcked(seed_id, next_sequence, resend):
                again = self._seeds.acked(seed_id, next_sequence, resend=resend)
                if again is None:
                    self._fail_seed("the applier asks for a part of the seed that it had")
                else:
                    self._send_seed_items(again)
                self._changed.happened()
            case link.SeedFinished(seed_id):
                if seed_id == self._seeds.seed_id:
                    self._seeds.forget()
                    self._tell_event(SeedFinished(seed_id, ""))
            case link.SeedStopped(seed_id, _, what):
                if seed_id == self._seeds.seed_id:
                    self._fail_seed(what)

    # --- receiving ------------------------------------------------------------------------

    async def next_event(self) -> DestinationEvent:
        while True:
            if self._acked is not None:
                acked, self._acked = self._acked, None
                return acked
            if self._events:
                return self._events.popleft()
            await self._told.wait()

    def _tell_event(self, event: DestinationEvent) -> None:
        self._events.append(event)
        self._told.happened()
        self._changed.happened()

    def _tell_acked(self, acked: Acked) -> None:
        if self.on_acked is not None:
            self._acked = None
            self.on_acked(acked)
        else:
            self._acked = acked
            self._told.happened()

    def _received(self, parts: list[Payload]) -> None:
        if self._session is not None:
            self._take(self._session.receive(parts, self._loop.time()))

    def _closed(self, error: LogshipError) -> None:
        if self._session is not None:
            self._take(self._session.lost(error))

    def _take(self, outputs: list[link.ShipperOutput]) -> None:
        for output in outputs:
            match output:
                case link.Send():
                    self._send(output)
                case link.HeartbeatDue():
                    self._heartbeat()
                case link.Welcomed():
                    self._welcomed(output)
                case link.Acked(received, durable, applied):
                    if received is not None and durable is not None:
                        self._tell_acked(Acked(received, durable, applied))
                    self._changed.happened()
                case link.Rewind(timeline, lsn, why):
                    self._rewind(Position(timeline, lsn), why)
                case link.Refused(error):
                    if self._session is not None and self._session.begins_seed:
                        # Its begin was refused: the same again would be refused for ever.
                        self._fail_seed(error.what)
                    self._ended(error)
                case link.LinkLost(error):
                    self._ended(error)
                case link.FencedOff(at, timeline, lsn):
                    self._ended(_fenced(self._identity.instance, at, timeline, lsn))
                case _:
                    self._take_seed(output)
        self._alarm.set(self._session.deadline if self._session is not None else None)

    def _rewind(self, position: Position, why: str) -> None:
        self._void = True
        self._tell_event(Rewind(position, why))

    def _ended(self, error: LogshipError) -> None:
        self._drop()
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_exception(error)
        self._tell_event(Lost(error))

    # --- the session's clock and wire -----------------------------------------------------

    def _heartbeat(self) -> None:
        session, facts = self._session, self._facts
        if session is None or facts is None or session.closed:
            return
        frame = ShipperHeartbeat(
            timeline=facts.timeline,
            flush_lsn=max(facts.flush_lsn, self._flush_lsn),
            sent_at=time.time(),
            primary_reachable=facts.reachable,
            sync_state=facts.sync_state,
            slot_wal_status=facts.slot_wal_status,
            other_roads=list(facts.other_roads),
        )
        self._said = facts
        self._send(session.heartbeat(frame, self._loop.time()))

    def _send(self, send: link.Send) -> None:
        dealer = self._dealer
        if dealer is None:
            return
        try:
            dealer.send(send.parts())
        except LogshipError as error:
            if self._session is not None:
                self._take(self._session.lost(error))

    def _on_timer(self) -> None:
        if self._session is not None:
            self._take(self._session.timer(self._loop.time()))

    def _open_session(self) -> ShipperSession:
        session = self._session
        if session is None or session.closed or session.welcome is None:
            raise LogshipError(Code.LINK_LOST, "the link is down", retryable=True)
        return session

    def _drop(self) -> None:
        self._alarm.cancel()
        dealer, self._dealer = self._dealer, None
        self._session = None
        if dealer is not None:
            dealer.close()
        self._changed.happened()


def _is_same(told: Facts | None, facts: Facts) -> bool:
    """Whether nobody looked how far the primary is since `told`: then it is no newer than what
    spans said since."""
    if told is None or told.profile.incarnation != facts.profile.incarnation:
        return False
    return (told.timeline, told.flush_lsn) == (facts.timeline, facts.flush_lsn)


def _news(facts: Facts) -> Facts:
    roads = tuple(msgspec.structs.replace(road, durable_lsn=0) for road in facts.other_roads)
    return facts._replace(flush_lsn=Lsn(0), slot_restart_lsn=None, other_roads=roads)


def _fenced(instance: str, at: float, timeline: int, lsn: int) -> LogshipError:
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
    where = f"opened on timeline {timeline} at {Lsn(lsn)}" if timeline else "is being opened"
    return LogshipError(
        Code.FENCED,
        f"{instance} was promoted on the recovery server at {when}: its standby {where}",
        "nothing is shipped any more; keep clients away from this primary",
    )

"""What the sessions ask for and tell: the outputs of both, in one place.

Every call of a session returns outputs in the order in which they must be carried out.  What
the applier's caller queues instead of handling it at once it reports with `handled` afterwards.
`Send` is the one command.  All others are events.  `Refused`, `FencedOff`, `PeerLeft`,
`PeerRefused` and `LinkLost` are terminal: the session is closed when one is returned, and
the caller must send what came before it and then close the transport.
"""

from __future__ import annotations

from dataclasses import dataclass

from logship.errors import LogshipError
from logship.frames import (
    Frame,
    GapFound,
    Hello,
    Payload,
    SeedBegin,
    SeedChunk,
    SeedEnd,
    ShipperHeartbeat,
    Span,
    Welcome,
    encode,
)
from logship.identity import Profile
from logship.lsn import Lsn, Position


@dataclass(frozen=True, slots=True)
class Send:
    """Put this frame on the wire now."""

    frame: Frame
    payload: Payload | None = None

    def parts(self) -> list[Payload]:
        return encode(self.frame, self.payload)


@dataclass(frozen=True, slots=True)
class HeartbeatDue:
    """Call the session's `heartbeat` now, with what is true now."""


@dataclass(frozen=True, slots=True)
class LinkLost:
    """Terminal.  Silence, or a peer that can't be understood.  `error.retryable` as usual."""

    error: LogshipError


@dataclass(frozen=True, slots=True)
class SeedStopped:
    """The other side gave the seed up: forget it."""

    seed_id: str
    code: str
    what: str


# --- at the shipper -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The session is open.  `resume` None: nothing can be sent before a seed has begun."""

    welcome: Welcome
    resume: Position | None


@dataclass(frozen=True, slots=True)
class Acked:
    """Positions rose (or the standby moved).  Only `durable` may move the slot."""

    received: Position | None
    durable: Position | None
    applied_lsn: Lsn


@dataclass(frozen=True, slots=True)
class Rewind:
    """Read again from here: what was sent from here on is lost.  The session's `sent` is
    already set back."""

    timeline: int
    lsn: Lsn
    why: str


@dataclass(frozen=True, slots=True)
class SeedRequested:
    why: str


@dataclass(frozen=True, slots=True)
class SeedAcked:
    """Tell the outbox; if `resend`, send again all it has pending from `next_sequence`."""

    seed_id: str
    next_sequence: int
    resend: bool


@dataclass(frozen=True, slots=True)
class SeedFinished:
    seed_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Terminal.  The applier's words; `error.code` is the applier's where it is known here."""

    error: LogshipError


@dataclass(frozen=True, slots=True)
class FencedOff:
    """Terminal.  The instance was promoted: stop shipping and say so."""

    at: float
    timeline: int
    lsn: Lsn


ShipperOutput = (
    Send
    | HeartbeatDue
    | LinkLost
    | SeedStopped
    | Welcomed
    | Acked
    | Rewind
    | SeedRequested
    | SeedAcked
    | SeedFinished
    | Refused
    | FencedOff
)

# --- at the applier -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Greeted:
    """A hello in a version that both speak: answer with `welcome`, `refuse` or `fence`."""

    hello: Hello
    version: int


@dataclass(frozen=True, slots=True)
class SpanReceived:
    """Sealed WAL: unseal it (in a thread if large) and append it to the store, in order.

    `repeats`: it starts below what was handed up before; the store compares the bytes.
    `epoch`: drop the span unprocessed if the session's `epoch` has moved on since.
    A failure is told with `span_failed`.
    """

    span: Span
    payload: Payload
    repeats: bool
    epoch: int


@dataclass(frozen=True, slots=True)
class HistoryReceived:
    """A timeline history whose checksum held; parse and store it before any later span."""

    timeline: int
    content: bytes


@dataclass(frozen=True, slots=True)
class PrimaryHeard:
    heartbeat: ShipperHeartbeat


@dataclass(frozen=True, slots=True)
class ProfileReceived:
    profile: Profile


@dataclass(frozen=True, slots=True)
class GapReported:
    gap: GapFound


@dataclass(frozen=True, slots=True)
class SeedBegun:
    """Begin a new chain, then call `seed_ack(seed_id, 0)`.  Until then no ack is sent."""

    begin: SeedBegin


@dataclass(frozen=True, slots=True)
class SeedChunkReceived:
    """Sealed piece of the seed, in order.  Call `seed_ack` as chunks are done with, or
    `chunk_failed`.  Drop it unprocessed if the session's `seed_epoch` has moved on."""

    chunk: SeedChunk
    payload: Payload
    epoch: int


@dataclass(frozen=True, slots=True)
class SeedEnded:
    """Drop it unprocessed if the session's `seed_epoch` has moved on: it comes again."""

    end: SeedEnd
    epoch: int


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """Terminal.  The shipper said bye."""

    reason: str


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """Terminal.  The session itself refused the peer; the refusal was just sent."""

    error: LogshipError


ApplierOutput = (
    Send
    | HeartbeatDue
    | LinkLost
    | SeedStopped
    | Greeted
    | SpanReceived
    | HistoryReceived
    | PrimaryHeard
    | ProfileReceived
    | GapReported
    | SeedBegun
    | SeedChunkReceived
    | SeedEnded
    | PeerLeft
    | PeerRefused
)

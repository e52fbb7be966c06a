"""What travels between shipper and applier: one struct a frame, plus at most one payload.

On the wire a frame is one or two ZeroMQ message parts: `head` (4 bytes CRC-32C of what
follows, little-endian; then a MessagePack map tagged `t`) and, for the frames marked so, a
raw `payload`, whose own CRC-32C over the *unsealed* bytes stands in the head.  Unknown map
keys are ignored and new keys have defaults, so version N talks to N-1.  docs/link-protocol.md
is the prose of this file.

All LSNs are plain integers here; all times are seconds since the epoch by the sender's
clock, for display only: no decision compares two clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, TypeVar

import crc32c
import msgspec

from logship.decoders import MsgpackDecoder, msgpack_decoder
from logship.documents import UNREADABLE
from logship.errors import Code, LogshipError
from logship.identity import Profile
from logship.lsn import plain_lsn

PROTOCOL_VERSION: Final = 1
OLDEST_PROTOCOL_VERSION: Final = 1
MAX_HEAD_BYTES: Final = 256 * 1024
MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
"""Refused above this, before anything is allocated for it."""
MAX_SPAN_BYTES: Final = 4 * 1024 * 1024
"""Raw WAL bytes of one span, at most.  Also bounds what unsealing may produce."""
SEED_WINDOW_BYTES: Final = 16 * 1024 * 1024
"""Sealed bytes of seed chunks that may be sent and not yet acknowledged."""


WireLsn = Annotated[int, msgspec.Meta(ge=0)]
WireTimeline = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
WireBytes = Annotated[int, msgspec.Meta(ge=0)]
WireSequence = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag=str.lower):
    """Base of all frames."""


# --- shipper to applier -------------------------------------------------------------------


class Hello(Frame, frozen=True):
    """First frame of a connection.  Nothing else is sent before the welcome."""

    version_min: int
    version_max: int
    instance: str
    shipper_id: str
    """Random, kept in the shipper's state directory: the same over restarts."""
    boot_id: str
    """Random, new at each start of the process."""
    software: str
    profile: Profile
    timeline: WireTimeline
    """The primary's current timeline."""
    flush_lsn: WireLsn
    """The primary's flush position when the hello was made."""
    protection: str = "async"
    seed_id: str = ""
    """The seed this shipper still holds open from before a cut, or ""."""
    primary_reachable: bool = True
    """False: `profile` and `timeline` are those of the last time, to name the cluster by, and
    `flush_lsn` is 0.  A new hello follows once the primary is reached."""


class Span(Frame, frozen=True):
    """WAL bytes [start_lsn, start_lsn + raw_bytes) of `timeline`.  Payload: sealed bytes.

    Never crosses a segment's end.  Within one timeline of one connection each span starts
    where the last ended.
    """

    timeline: WireTimeline
    start_lsn: WireLsn
    raw_bytes: WireBytes
    crc32c: int
    codec: str = "none"
    flush_lsn: WireLsn = 0
    """The primary's flush position as known when this was sent (0: not known)."""
    sent_at: float = 0.0


class TimelineHistory(Frame, frozen=True):
    """A `.history` file, sent before any WAL of `timeline`.  Payload: the file, unsealed."""

    timeline: WireTimeline
    crc32c: int


class OtherRoad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What becomes of the same WAL on another road of the same shipper."""

    name: str
    role: str
    """required, optional, spill."""
    state: str
    """connected, idle (a spill that is not needed), spilling, lost, refused, behind (left behind,
    taken up again later), gap (it misses WAL that the primary has no more)."""
    timeline: WireTimeline = 0
    """Of `durable_lsn` (0: not known)."""
    durable_lsn: WireLsn = 0
    """What is durable there."""
    since_lsn: WireLsn = 0
    """Where the spilling began, or the hole begins."""
    available_lsn: WireLsn = 0
    """Where a hole ends (0: not known)."""
    what: str = ""
    """Why it is so, for the operator."""


class ShipperHeartbeat(Frame, frozen=True):
    """Sent when nothing else was, and whenever what it says changes while idle."""

    timeline: WireTimeline
    flush_lsn: WireLsn
    sent_at: float
    primary_reachable: bool = True
    sync_state: str = ""
    """As the primary's pg_stat_replication says of this shipper: sync, quorum, potential,
    async; "" when not known."""
    slot_wal_status: str = ""
    """pg_replication_slots.wal_status: reserved, extended, unreserved, lost; "" not known."""
    sent_timeline: WireTimeline = 0
    """With `sent_lsn`, where this connection's next span will start (0: not known).  Filled in
    by the session.  As frames keep their order, an applier that expects less has lost one."""
    sent_lsn: WireLsn = 0
    seed_id: str = ""
    """The seed in progress on this connection, with the sequence of its next chunk."""
    seed_sequence: WireSequence = 0
    other_roads: list[OtherRoad] = msgspec.field(default_factory=list)


class ProfileChanged(Frame, frozen=True):
    profile: Profile


class GapFound(Frame, frozen=True):
    """The primary no longer has WAL that the store needs: only a new seed continues.

    Code `wal-in-bucket`: it lies in the instance's bucket.  The applier fetches it there and
    then says with ResumeAt where the link goes on, which may lie beyond what was sent.
    """

    timeline: WireTimeline
    from_lsn: WireLsn
    available_lsn: WireLsn
    """Where WAL can be had from again; 0 when not known."""
    code: str
    what: str


class SeedBegin(Frame, frozen=True):
    """A base backup starts.  Resets the store's chain to start at `start_lsn`'s segment."""

    seed_id: str
    timeline: WireTimeline
    start_lsn: WireLsn
    estimated_bytes: WireBytes
    tablespaces: list[tuple[int, str]] = msgspec.field(default_factory=list)
    """(oid, location on the primary)."""


class SeedChunk(Frame, frozen=True):
    """A piece of the seed's archive stream.  Payload: sealed bytes.

    `sequence` counts from 0 over the whole seed.  kind: "archive" (starts the archive of the
    tablespace whose OID is `archive`, "" for the main data directory; no payload), "manifest"
    (the manifest starts; no payload), "data" (bytes of whichever started last).
    """

    seed_id: str
    sequence: WireSequence
    kind: str
    archive: str = ""
    raw_bytes: WireBytes = 0
    crc32c: int = 0
    codec: str = "none"


class SeedEnd(Frame, frozen=True):
    """The backup is complete on the sending side; WAL up to `end_lsn` makes it consistent."""

    seed_id: str
    sequence: WireSequence
    timeline: WireTimeline
    end_lsn: WireLsn


class SeedAborted(Frame, frozen=True):
    """Either side: the seed will not be completed.  Code and words for the operator."""

    seed_id: str
    code: str
    what: str


class Bye(Frame, frozen=True):
    """The shipper stops on purpose."""

    reason: str


class Join(Frame, frozen=True):
    """First and only frame of a connection made with a join token's key.

    Which instance that is, the applier knows by the key.
    """

    version_min: int
    version_max: int
    software: str
    public_key: str
    """z85 text of the shipper's own key, new and of this host alone."""
    profile: Profile
    """The primary, as the hello will say it."""


# --- applier to shipper -------------------------------------------------------------------


class Welcome(Frame, frozen=True):
    """Accepts the hello.  `resume_lsn` 0: the store is empty, a seed must come first."""

    version: int
    window_bytes: int
    max_span_bytes: int
    heartbeat_seconds: float
    """Both sides send at least this often, and call the link lost after 3 times as long."""
    resume_timeline: WireTimeline = 0
    resume_lsn: WireLsn = 0
    """First byte wanted: the durable position.  Everything below it is kept."""
    known_timelines: list[int] = msgspec.field(default_factory=list)
    """Timelines whose history the store already has."""
    seed_wanted: bool = False
    seed_id: str = ""
    """The seed that may go on after a cut, or ""."""
    seed_sequence: WireSequence = 0
    """Its next chunk."""
    seed_done: bool = False
    """The seed that the hello still held is in place; its SeedDone was lost with the cut."""


class Ack(Frame, frozen=True):
    """Positions on `timeline`.  received ≥ durable; durable is what the slot may follow."""

    timeline: WireTimeline
    received_lsn: WireLsn
    durable_lsn: WireLsn
    applied_lsn: WireLsn = 0
    """The standby's replay position, 0 when not known."""


class ApplierHeartbeat(Frame, frozen=True):
    sent_at: float


class ResumeAt(Frame, frozen=True):
    """A span did not fit (lost, repeated or reordered): send again from here."""

    timeline: WireTimeline
    lsn: WireLsn
    why: str


class SeedRequest(Frame, frozen=True):
    """Start a seed now (the first, or again because an operator asked)."""

    why: str


class SeedAck(Frame, frozen=True):
    """Chunks below `next_sequence` need not be sent again; frees the seed's window.

    0 answers SeedBegin: the store's new chain has begun, acks from here on are of that chain.
    """

    seed_id: str
    next_sequence: WireSequence
    resend: bool = False
    """Chunk `next_sequence` was lost or damaged: send again from it."""


class SeedDone(Frame, frozen=True):
    """Verified against its manifest, synced and in place."""

    seed_id: str


class Refuse(Frame, frozen=True):
    """The applier will not go on with this connection."""

    code: str
    what: str
    hint: str
    retryable: bool


class Fenced(Frame, frozen=True):
    """This instance was promoted: nothing of the old line is accepted any more."""

    at: float
    timeline: WireTimeline
    """The timeline the promoted standby opened on (0: still being promoted)."""
    lsn: WireLsn


class Joined(Frame, frozen=True):
    """Answers the join: from now on the shipper's key may ship the instance."""

    version: int
    instance: str
    standby_port: int = 0
    """Where clients will find the standby after a promotion; 0 when not known."""
    notes: list[str] = msgspec.field(default_factory=list)
    """What the operator should look at, one sentence each."""


ShipperFrame = (
    Hello
    | Span
    | TimelineHistory
    | ShipperHeartbeat
    | ProfileChanged
    | GapFound
    | SeedBegin
    | SeedChunk
    | SeedEnd
    | SeedAborted
    | Bye
)
ApplierFrame = (
    Welcome
    | Ack
    | ApplierHeartbeat
    | ResumeAt
    | SeedRequest
    | SeedAck
    | SeedDone
    | SeedAborted
    | Refuse
    | Fenced
)

_encoder = msgspec.msgpack.Encoder(enc_hook=plain_lsn)
_shipper_decoder: MsgpackDecoder[ShipperFrame] = msgpack_decoder(ShipperFrame)
_applier_decoder: MsgpackDecoder[ApplierFrame] = msgpack_decoder(ApplierFrame)

_join_decoder: MsgpackDecoder[Join | Hello] = msgpack_decoder(Join | Hello)
_joined_decoder: MsgpackDecoder[Joined | Refuse] = msgpack_decoder(Joined | Refuse)

_PAYLOAD_FRAMES = (Span, TimelineHistory, SeedChunk)

Payload = bytes | memoryview
_F = TypeVar("_F")


def encode(frame: Frame, payload: Payload | None = None) -> list[Payload]:
    """The message parts of `frame`."""
    body = _encoder.encode(frame)
    head = crc32c.crc32c(body).to_bytes(4, "little") + body
    return [head] if payload is None else [head, payload]


def decode_from_shipper(parts: Sequence[Payload]) -> tuple[ShipperFrame, Payload]:
    """Parse what an applier received.  Raises LogshipError (BAD_FRAME, CHECKSUM_MISMATCH)."""
    return _decode(_shipper_decoder, parts)


def decode_from_applier(parts: Sequence[Payload]) -> tuple[ApplierFrame, Payload]:
    """Parse what a shipper received.  Raises LogshipError (BAD_FRAME, CHECKSUM_MISMATCH)."""
    return _decode(_applier_decoder, parts)


def decode_join(parts: Sequence[Payload]) -> Join:
    """Parse what came with a token's key.  Raises as `decode_from_shipper`."""
    frame, _ = _decode(_join_decoder, parts)
    if isinstance(frame, Hello):
        raise _bad_frame("a hello with the key of a join token, which is for joining alone")
    return frame


def decode_joined(parts: Sequence[Payload]) -> Joined | Refuse:
    """Parse the answer to a join.  Raises as `decode_from_applier`."""
    return _decode(_joined_decoder, parts)[0]


class _Versions(msgspec.Struct):
    t: str
    version_min: int
    version_max: int


def peek_versions(head: Payload) -> tuple[int, int] | None:
    """(version_min, version_max) of a hello or join that may be of any protocol version, or None.

    For refusing a peer so new, or so old, that the rest of it can't be read.
    """
    try:
        versions = msgpack_decoder(_Versions).decode(memoryview(head)[4:])
    except UNREADABLE:
        return None
    return (versions.version_min, versions.version_max) if versions.t in ("hello", "join") else None


def _decode(decoder: MsgpackDecoder[_F], parts: Sequence[Payload]) -> tuple[_F, Payload]:
    if not 1 <= len(parts) <= 2:
        raise _bad_frame(f"{len(parts)} message parts")
    head = parts[0]
    payload: Payload = parts[1] if len(parts) == 2 else b""
    if not 5 <= len(head) <= MAX_HEAD_BYTES:
        raise _bad_frame(f"a head of {len(head)} bytes")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise _bad_frame(f"a payload of {len(payload)} bytes, {MAX_PAYLOAD_BYTES} at most")
    body = memoryview(head)[4:]
    if crc32c.crc32c(body) != int.from_bytes(head[:4], "little"):
        raise LogshipError(
            Code.CHECKSUM_MISMATCH,
            "a frame's head does not match its checksum",
            "nothing of it was used; if this repeats, suspect memory or the network card",
            retryable=True,
        )
    try:
        frame = decoder.decode(body)
    except UNREADABLE as error:
        raise _bad_frame(str(error)) from error
    if len(parts) == 2 and not isinstance(frame, _PAYLOAD_FRAMES):
        raise _bad_frame(f"{type(frame).__name__} with a payload")
    return frame, payload


def _bad_frame(why: str) -> LogshipError:
    return LogshipError(
        Code.BAD_FRAME,
        f"a frame that can't be read: {why}",
        "check that both sides run versions of Logship that may talk (docs/link-protocol.md)",
    )

"""One good frame or more of every kind, with its payload."""

from __future__ import annotations

import crc32c

from logship.frames import (
    Ack,
    ApplierHeartbeat,
    Bye,
    Fenced,
    Frame,
    GapFound,
    Joined,
    ProfileChanged,
    Refuse,
    ResumeAt,
    SeedAborted,
    SeedAck,
    SeedBegin,
    SeedChunk,
    SeedDone,
    SeedEnd,
    SeedRequest,
    ShipperHeartbeat,
    TimelineHistory,
)
from logship.link.keys import KeyPair
from logship.seal import seal
from tests.support.enrolments import join_of
from tests.support.link_frames import (
    SEGMENT_BYTES,
    hello,
    profile,
    sealed_wal,
    span_frame,
    welcome,
)

HISTORY = b"1\t0/180000\tno recovery target specified\n"
Sample = tuple[Frame, bytes | None]


def from_shipper() -> list[Sample]:
    """What an applier may receive."""
    at, size_bytes = SEGMENT_BYTES, 700
    span = (span_frame(1, at, size_bytes), bytes(sealed_wal(1, at, size_bytes).payload))
    piece = seal(b"seed" * 200)
    chunk = SeedChunk(
        seed_id="s1",
        sequence=1,
        kind="data",
        raw_bytes=piece.raw_bytes,
        crc32c=piece.crc32c,
        codec=piece.codec,
    )
    return [
        (hello(), None),
        (hello(seed_id="s1", protection="sync"), None),
        span,
        (TimelineHistory(timeline=2, crc32c=crc32c.crc32c(HISTORY)), HISTORY),
        (
            ShipperHeartbeat(
                timeline=1, flush_lsn=at, sent_at=1e9, sent_timeline=1, sent_lsn=at + size_bytes
            ),
            None,
        ),
        (ShipperHeartbeat(timeline=1, flush_lsn=at, sent_at=0.0, seed_id="s1"), None),
        (ProfileChanged(profile=profile(max_connections=200)), None),
        (GapFound(timeline=1, from_lsn=at, available_lsn=0, code="wal-gap", what="gone"), None),
        (
            SeedBegin(
                seed_id="s1",
                timeline=1,
                start_lsn=at + 40,
                estimated_bytes=1 << 30,
                tablespaces=[(16384, "/srv/space")],
            ),
            None,
        ),
        (SeedChunk(seed_id="s1", sequence=0, kind="archive"), None),
        (SeedChunk(seed_id="s1", sequence=2, kind="manifest"), None),
        (chunk, bytes(piece.payload)),
        (SeedEnd(seed_id="s1", sequence=3, timeline=1, end_lsn=at + 900), None),
        (SeedAborted(seed_id="s1", code="seed-failed", what="cut"), None),
        (Bye(reason="stopped"), None),
    ]


def from_applier() -> list[Sample]:
    """What a shipper may receive."""
    at = SEGMENT_BYTES
    frames: list[Frame] = [
        welcome(),
        welcome(resume_lsn=0, resume_timeline=0, seed_wanted=True),
        welcome(seed_id="s1", seed_sequence=2, known_timelines=[2, 3]),
        Ack(timeline=1, received_lsn=at, durable_lsn=at, applied_lsn=at - 8),
        ApplierHeartbeat(sent_at=1e9),
        ResumeAt(timeline=1, lsn=at, why="a span was lost"),
        SeedRequest(why="the store is empty"),
        SeedAck(seed_id="s1", next_sequence=0),
        SeedAck(seed_id="s1", next_sequence=1, resend=True),
        SeedDone(seed_id="s1"),
        SeedAborted(seed_id="s1", code="disk-full", what="no room"),
        Refuse(code="instance-busy", what="another one ships", hint="stop it", retryable=True),
        Fenced(at=1e9, timeline=2, lsn=at),
    ]
    return [(frame, None) for frame in frames]


def of_a_join() -> list[Sample]:
    """What an applier may receive with a token's key."""
    return [(join_of(KeyPair("iEQk2D([6kmjeHpTFg^!]5Igm6D=9go5{Nl^b%yK", "")), None)]


def of_its_answer() -> list[Sample]:
    """What a shipper that joins may receive."""
    joined = Joined(version=1, instance="main", standby_port=5433, notes=["look at this"])
    no = Refuse(code="token-used", what="it was used", hint="make another", retryable=False)
    return [(joined, None), (no, None)]

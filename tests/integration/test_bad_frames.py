"""Bad input to a real applier: its sessions, its instance, its store on a real disk.

Whatever comes, the store holds the acknowledged bytes and nothing else, the sender is told
what is wrong, and a good shipper goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import crc32c
import msgspec
import pytest

from applier.operations.instance import Instance
from applier.receivers.link import LinkReceiver
from applier.receivers.link_connection import MAX_CORRUPT_SPANS
from applier.service import Service
from applier.settings import load_applier_settings
from applier.store import Store
from logship.errors import Code
from logship.frames import (
    MAX_PAYLOAD_BYTES,
    Ack,
    Frame,
    Payload,
    ProfileChanged,
    Refuse,
    ResumeAt,
    SeedAck,
    SeedBegin,
    SeedChunk,
    SeedEnd,
    ShipperHeartbeat,
    Span,
    TimelineHistory,
    Welcome,
    decode_from_applier,
    encode,
)
from logship.link.transport import Dealer
from logship.lsn import Lsn
from logship.seal import seal
from logship.wal import parse_history
from shipper.destinations import Acked
from shipper.destinations.link import LinkDestination, ShipperIdentity
from tests.integration.destination_contract import facts
from tests.support.fake_intake import new_keys
from tests.support.link_frames import SEGMENT_BYTES, hello, profile
from tests.support.waiting import free_port, until
from tests.support.wal_factory import WalFactory, wal_line

pytestmark = pytest.mark.integration

S = SEGMENT_BYTES
LINE = wal_line(17, S)
START = 4 * S
"""Where the chain begins: a seed at START + 40."""
BEFORE = 100_000
"""Bytes that are durable before the bad thing comes."""
HERE = START + BEFORE
WINDOW_BYTES = 1 << 20
HEARTBEAT_SECONDS = 20.0
"""A raw sender sends none, and is to be heard also after a slow fsync: a minute of silence is a
loss."""
FORK = START + BEFORE
HISTORY_2 = f"1\t{Lsn(FORK)}\tno recovery target specified\n".encode()
SETTINGS = """
directory = "{directory}/applier"
store.keep_free_mb = 1
wal_server.socket_directory = "{directory}/run/wal"
api.socket = "{directory}/run/api.sock"
[instances.orders]
public_key = "{key}"
port = {port}
run_standby = false
seed = "manual"
"""
FACTORY = WalFactory(LINE, {2: parse_history(2, HISTORY_2)})


class RawShipper:
    """Sends what a test wants, past all checks of a session, and hears the answers."""

    def __init__(self, rig: Rig) -> None:
        self.heard: list[Frame] = []
        self.closed = False
        self.dealer = Dealer(
            rig.endpoint,
            server_public_key=rig.server_keys.public,
            keys=rig.keys,
            on_message=lambda parts: self.heard.append(decode_from_applier(parts)[0]),
            on_closed=lambda error: self._ended(),
        )

    def _ended(self) -> None:
        self.closed = True

    def parts(self, *parts: Payload) -> None:
        self.dealer.send(list(parts))

    def frame(self, frame: Frame, payload: Payload | None = None) -> None:
        self.dealer.send(encode(frame, payload))

    def span(self, start: int, size: int, *, timeline: int = 1, **changes: Any) -> None:
        self.raw_span(timeline, start, FACTORY.wal(timeline, start, start + size), **changes)

    def raw_span(self, timeline: int, start: int, raw: bytes, **changes: Any) -> None:
        self.frame(*sealed_span(timeline, start, raw, **changes))

    async def hear(self, kind: type[Frame]) -> Any:
        await until(lambda: self._of(kind), kind.__name__)
        return self._of(kind)[0]

    def _of(self, kind: type[Frame]) -> list[Frame]:
        return [frame for frame in self.heard if isinstance(frame, kind)]

    async def refusal(self) -> Refuse:
        refuse = await self.hear(Refuse)
        assert isinstance(refuse, Refuse)
        assert refuse.what
        return refuse

    async def until_durable(self, lsn: int, timeline: int = 1) -> None:
        await until(
            lambda: any(
                isinstance(frame, Ack) and (frame.timeline, frame.durable_lsn) >= (timeline, lsn)
                for frame in self.heard
            ),
            f"{Lsn(lsn)} is durable",
        )


def sealed_span(timeline: int, start: int, raw: bytes, **changes: Any) -> tuple[Span, Payload]:
    sealed = seal(raw)
    span = Span(
        timeline=timeline,
        start_lsn=start,
        raw_bytes=sealed.raw_bytes,
        crc32c=sealed.crc32c,
        codec=sealed.codec,
    )
    return msgspec.structs.replace(span, **changes), sealed.payload


class Rig:
    """An applier in this process: service, receiver, one instance without a standby."""

    def __init__(self, directory: Path) -> None:
        self.server_keys, self.keys = new_keys(), new_keys()
        self.endpoint = "tcp://127.0.0.1:0"
        (directory / "run").mkdir(mode=0o711)
        file = directory / "applier.toml"
        file.write_text(
            SETTINGS.format(directory=directory, key=self.keys.public, port=free_port())
        )
        self.settings = load_applier_settings(file)
        self.service = Service(self.settings)
        self.receiver: LinkReceiver | None = None
        self.raw: list[RawShipper] = []

    async def start(self) -> None:
        self.service = Service(self.settings)
        await self.service.open(["orders"])
        self.receiver = LinkReceiver(
            self.service.open_instances,
            {self.keys.public: frozenset({"orders"})},
            keys=self.server_keys,
            window_bytes=WINDOW_BYTES,
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )
        self.endpoint = self.receiver.start(self.endpoint)

    async def stop(self) -> None:
        for raw in self.raw:
            raw.dealer.close()
        if self.receiver is not None:
            await self.receiver.stop()
            self.receiver = None
        await self.service.close()

    @property
    def instance(self) -> Instance:
        return self.service.open_instances["orders"]

    @property
    def alarms(self) -> set[str]:
        return {alarm["code"] for alarm in self.service.instance("orders")["alarms"]}

    @property
    def wal_directory(self) -> Path:
        return self.instance.incarnation_directory / "wal"

    async def connect(self) -> RawShipper:
        raw = RawShipper(self)
        self.raw.append(raw)
        await raw.dealer.connect(30)
        return raw

    async def greet(self, **changes: Any) -> RawShipper:
        raw = await self.connect()
        raw.frame(hello(**changes))
        await raw.hear(Welcome)
        return raw

    async def begin(self) -> RawShipper:
        """A sender whose chain has begun, with BEFORE bytes durable."""
        raw = await self.greet()
        begin = SeedBegin(seed_id="s1", timeline=1, start_lsn=START + 40, estimated_bytes=0)
        raw.frame(begin)
        await raw.hear(SeedAck)
        for place in range(START, HERE, 50_000):
            raw.span(place, 50_000)
        await raw.until_durable(HERE)
        return raw

    async def good_shipper_goes_on(self, *, expected: int | None = HERE) -> None:
        """A real destination is accepted where the store ends, ships on, and the disk, looked
        at afresh, holds exactly what was acknowledged."""
        destination = LinkDestination(
            self.endpoint,
            server_public_key=self.server_keys.public,
            keys=self.keys,
            identity=ShipperIdentity("orders", "shipper-a", "boot-2", "async"),
        )
        accepted = await destination.connect(facts())
        position = accepted.position
        assert position is not None
        assert expected is None or position == (1, expected)
        destination.resume(position)
        place, end = int(position.lsn), position.lsn + 123_457
        while place < end:
            size = min(30_000, end - place, S - place % S)
            await destination.room(size)
            destination.send_span(1, place, seal(FACTORY.wal(1, place, place + size)), end)
            place += size

        async def durable() -> None:
            while True:
                event = await destination.next_event()
                assert isinstance(event, Acked), event
                if event.durable >= (1, end):
                    return

        await asyncio.wait_for(durable(), 60)
        await destination.close("done")
        directory = self.wal_directory
        await self.stop()
        store = Store.open(directory, LINE, keep_free_bytes=0)
        try:
            assert store.start == (1, START)
            assert store.durable == store.written == (1, end)
            assert read_all(store, START, end) == FACTORY.wal(1, START, end)
        finally:
            store.close()


def read_all(store: Store, start: int, end: int) -> bytes:
    held = b""
    while start + len(held) < end:
        piece = store.read(1, start + len(held), end - start - len(held))
        assert piece
        held += piece
    return held


@pytest.fixture
async def rig(shared_tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(shared_tmp_path)
    await made.start()
    yield made
    await made.stop()


# --- what is no frame -----------------------------------------------------------------------


def flipped(data: Payload, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8 % len(changed)] ^= 1 << bit % 8
    return bytes(changed)


def with_checksum(body: bytes) -> bytes:
    return crc32c.crc32c(body).to_bytes(4, "little") + body


GOOD_SPAN = sealed_span(1, HERE, FACTORY.wal(1, HERE, HERE + 1000))
HEAD, PAYLOAD = encode(*GOOD_SPAN)

NO_FRAMES: dict[str, list[Payload]] = {
    "empty": [b""],
    "noise": [b"\x93\x01\x02\x03 not ours at all"],
    "three parts": [HEAD, PAYLOAD, b""],
    "a head of 300 kB": [bytes(300_000)],
    "a head cut short": [HEAD[:-7], PAYLOAD],
    "only a checksum": [HEAD[:4]],
    "a flipped bit in the head's checksum": [flipped(HEAD, 3), PAYLOAD],
    "a flipped bit in the head": [flipped(HEAD, 8 * 30 + 1), PAYLOAD],
    "a kind that does not exist": [encode(Frame())[0]],
    "a payload where none belongs": [encode(hello())[0], b"payload"],
    "a span without its payload": [HEAD],
    "text that is no UTF-8": [with_checksum(b"\x82\xa1t\xa3bye\xa6reason\xa2\xff\xfe")],
    "nesting without end": [with_checksum(b"\x82\xa1t\xa3bye\xa1x" + b"\x91" * 100_000 + b"\xc0")],
}


@pytest.mark.parametrize("parts", NO_FRAMES.values(), ids=NO_FRAMES.keys())
async def test_what_is_no_frame_is_refused(rig: Rig, parts: list[Payload]) -> None:
    raw = await rig.begin()
    raw.parts(*parts)
    refusal = await raw.refusal()
    assert refusal.code in (Code.BAD_FRAME, Code.CHECKSUM_MISMATCH)
    assert refusal.retryable == (refusal.code == Code.CHECKSUM_MISMATCH)
    raw.span(HERE, 1000)  # a refused peer is heard no more
    await rig.good_shipper_goes_on()


@pytest.mark.parametrize("part", [0, 1])
async def test_a_part_beyond_the_limit_ends_the_connection(rig: Rig, part: int) -> None:
    raw = await rig.begin()
    parts: list[Payload] = [HEAD, PAYLOAD]
    parts[part] = bytes(MAX_PAYLOAD_BYTES + 4096)
    raw.parts(*parts)
    await until(lambda: raw.closed or raw._of(Refuse), "it is thrown out")
    await rig.good_shipper_goes_on()


# --- spans that are not what they say -------------------------------------------------------


async def test_a_road_that_corrupts_every_span_is_ended_before_it_keeps_the_applier_busy(
    rig: Rig,
) -> None:
    raw = await rig.begin()
    good = GOOD_SPAN[0]
    for number in range(MAX_CORRUPT_SPANS):
        assert not raw._of(Refuse)
        raw.frame(msgspec.structs.replace(good, crc32c=good.crc32c ^ 1), GOOD_SPAN[1])
        await until(
            lambda number=number: raw._of(Refuse) or len(raw._of(ResumeAt)) > number, "an answer"
        )
    refusal = await raw.refusal()
    assert refusal.code == Code.CHECKSUM_MISMATCH
    assert refusal.retryable
    await rig.good_shipper_goes_on()


async def test_one_corrupt_span_now_and_then_ends_nothing(rig: Rig) -> None:
    raw = await rig.begin()
    place = HERE
    for number in range(MAX_CORRUPT_SPANS + 1):
        raw.span(place, 100, crc32c=1)
        await until(lambda number=number: len(raw._of(ResumeAt)) > number, "it is asked for again")
        raw.span(place, 100)
        place += 100
    await raw.until_durable(place)
    assert not raw._of(Refuse)
    await rig.good_shipper_goes_on(expected=place)


SPOILT: dict[str, Callable[[RawShipper], None]] = {
    "a flipped bit": lambda raw: raw.frame(GOOD_SPAN[0], flipped(GOOD_SPAN[1], 4003)),
    "a wrong checksum": lambda raw: raw.span(HERE, 1000, crc32c=12345),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
async def test_damaged_wal_is_asked_for_again_and_what_followed_is_void(
    rig: Rig, spoil: Callable[[RawShipper], None]
) -> None:
    raw = await rig.begin()
    spoil(raw)
    raw.span(HERE + 1000, 1000)
    resume = await raw.hear(ResumeAt)
    assert (resume.timeline, resume.lsn) == (1, HERE)
    raw.span(HERE, 3000)
    await raw.until_durable(HERE + 3000)
    await rig.good_shipper_goes_on(expected=HERE + 3000)


@pytest.mark.parametrize("places", [(1, 0), (2, 1, 0), (1, 2)], ids=str)
async def test_reordered_and_missing_spans_are_asked_for_from_the_first(
    rig: Rig, places: tuple[int, ...]
) -> None:
    raw = await rig.begin()
    for place in places:
        raw.span(HERE + place * 1000, 1000)
    resume = await raw.hear(ResumeAt)
    assert (resume.timeline, resume.lsn) == (1, HERE)
    await rig.good_shipper_goes_on(expected=None)


async def test_repeated_spans_change_nothing(rig: Rig) -> None:
    raw = await rig.begin()
    for _ in range(3):
        raw.span(HERE, 1000)
        raw.span(START + 500, 20_000)
    raw.span(HERE + 1000, 500)
    await raw.until_durable(HERE + 1500)
    await rig.good_shipper_goes_on(expected=HERE + 1500)


async def test_the_same_wal_over_and_over_is_refused(rig: Rig) -> None:
    raw = await rig.begin()
    for _ in range(2 * WINDOW_BYTES // 50_000):
        raw.span(START, 50_000)
    raw.span(HERE, 10)
    await until(lambda: raw._of(Refuse) or raw._of(Ack), "an answer")
    await rig.good_shipper_goes_on(expected=None)


MALFORMED: dict[str, Callable[[RawShipper], None]] = {
    "crosses a segment": lambda raw: raw.span(START + S - 1000, 2000),
    "is empty": lambda raw: raw.raw_span(1, HERE, b""),
    "is larger than allowed": lambda raw: raw.span(HERE, WINDOW_BYTES // 4 + 1),
    "is of timeline 0": lambda raw: raw.frame(*sealed_span(0, HERE, b"x" * 100)),
    "has a codec nobody knows": lambda raw: raw.span(HERE, 1000, codec="lzma"),
    "announces more than comes": lambda raw: raw.span(HERE, 1000, raw_bytes=1001),
    "announces less than comes": lambda raw: raw.span(HERE, 1000, raw_bytes=999),
    "is cut short": lambda raw: raw.frame(GOOD_SPAN[0], GOOD_SPAN[1][:500]),
    "ends beyond the last position": lambda raw: raw.frame(*sealed_span(1, 2**64 - 10, b"x" * 100)),
}


@pytest.mark.parametrize("send", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_span_is_refused(rig: Rig, send: Callable[[RawShipper], None]) -> None:
    raw = await rig.begin()
    send(raw)
    refusal = await raw.refusal()
    assert refusal.code == Code.BAD_FRAME
    assert not refusal.retryable
    await rig.good_shipper_goes_on()


async def test_a_sender_that_ignores_the_window_is_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = await rig.begin()
    room = asyncio.Event()
    real = rig.instance.wal

    async def waits_for_room(timeline: int, start_lsn: int, data: Payload) -> None:
        await room.wait()
        await real(timeline, start_lsn, data)

    monkeypatch.setattr(rig.instance, "wal", waits_for_room)
    place = HERE
    while place < HERE + WINDOW_BYTES + 100_000:
        size = min(50_000, S - place % S)
        raw.span(place, size)
        place += size
    refusal = await raw.refusal()
    assert refusal.code == Code.BAD_FRAME
    assert "ahead" in refusal.what
    room.set()
    monkeypatch.undo()
    await rig.good_shipper_goes_on()


# --- bytes that are not this cluster's WAL --------------------------------------------------


def other_magic() -> bytes:
    page = HERE + -HERE % 8192
    return FACTORY.wal(1, HERE, page) + b"\x00\x00" + FACTORY.wal(1, page + 2, page + 1000)


async def test_what_has_no_wal_page_header_is_refused_and_alarmed(rig: Rig) -> None:
    raw = await rig.begin()
    raw.raw_span(1, HERE, other_magic())
    refusal = await raw.refusal()
    assert refusal.code == Code.BAD_WAL_PAGE
    assert Code.BAD_WAL_PAGE in rig.alarms
    await rig.good_shipper_goes_on()


async def test_wal_of_another_major_is_refused(rig: Rig) -> None:
    raw = await rig.begin()
    theirs = WalFactory(wal_line(16, S))
    raw.raw_span(1, HERE, theirs.wal(1, HERE, HERE + 20_000))
    assert (await raw.refusal()).code in (Code.BAD_WAL_PAGE, Code.MAJOR_MISMATCH)
    await rig.good_shipper_goes_on()


async def test_wal_of_another_cluster_is_refused(rig: Rig) -> None:
    raw = await rig.begin()
    place = HERE
    while place < START + S:
        size = min(50_000, START + S - place)
        raw.span(place, size)
        place += size
    await raw.until_durable(START + S)
    theirs = WalFactory(LINE._replace(system_identifier=42))
    raw.raw_span(1, START + S, theirs.wal(1, START + S, START + S + 9000))
    assert (await raw.refusal()).code in (Code.BAD_WAL_PAGE, Code.SYSTEM_IDENTIFIER_MISMATCH)
    await rig.good_shipper_goes_on(expected=START + S)


async def test_other_bytes_at_a_held_place_are_kept_aside_and_overwrite_nothing(rig: Rig) -> None:
    raw = await rig.begin()
    other = bytearray(FACTORY.wal(1, START + 9000, START + 12_000))
    other[777] ^= 0x40
    raw.raw_span(1, START + 9000, bytes(other))
    refusal = await raw.refusal()
    assert refusal.code == Code.WAL_CONFLICT
    assert not refusal.retryable
    assert Code.WAL_CONFLICT in rig.alarms
    kept = list((rig.wal_directory / "refused").iterdir())
    assert any(bytes(other) in path.read_bytes() for path in kept), "the evidence is kept"
    await rig.good_shipper_goes_on()


async def test_other_bytes_in_the_known_part_of_a_span_add_nothing_of_its_new_part(
    rig: Rig,
) -> None:
    raw = await rig.begin()
    other = bytearray(FACTORY.wal(1, HERE - 1000, HERE + 1000))
    other[10] ^= 1
    raw.raw_span(1, HERE - 1000, bytes(other))
    assert (await raw.refusal()).code == Code.WAL_CONFLICT
    await rig.good_shipper_goes_on()


# --- timelines ------------------------------------------------------------------------------


async def test_wal_of_a_timeline_whose_history_never_came_is_refused(rig: Rig) -> None:
    raw = await rig.begin()
    raw.span(START, 1000, timeline=2)
    refusal = await raw.refusal()
    assert refusal.code == Code.HISTORY_MISSING
    await rig.good_shipper_goes_on()


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"nonsense", Code.BAD_HISTORY), (b"7\t0/1000000\treason\n", Code.BAD_HISTORY)],
    ids=["nonsense", "a descendant as ancestor"],
)
async def test_a_history_that_postgresql_would_not_read_is_refused(
    rig: Rig, content: bytes, code: Code
) -> None:
    raw = await rig.begin()
    raw.frame(history_frame(2, content), content)
    assert (await raw.refusal()).code == code
    await rig.good_shipper_goes_on()


async def test_a_damaged_history_is_not_kept(rig: Rig) -> None:
    raw = await rig.begin()
    raw.frame(history_frame(2, HISTORY_2), flipped(HISTORY_2, 70))
    refusal = await raw.refusal()
    assert refusal.code == Code.CHECKSUM_MISMATCH
    assert refusal.retryable
    assert rig.instance.store is not None and rig.instance.store.histories() == {}
    await rig.good_shipper_goes_on()


async def test_another_history_of_a_known_timeline_is_refused(rig: Rig) -> None:
    raw = await rig.begin()
    other = f"1\t{Lsn(FORK + 8)}\tno recovery target specified\n".encode()
    raw.frame(history_frame(2, HISTORY_2), HISTORY_2)
    raw.frame(history_frame(2, HISTORY_2), HISTORY_2)
    raw.frame(history_frame(2, other), other)
    assert (await raw.refusal()).code == Code.HISTORY_CONFLICT
    assert rig.instance.store is not None
    assert rig.instance.store.history_content(2) == HISTORY_2
    await rig.good_shipper_goes_on()


async def test_a_new_timelines_first_segment_must_repeat_its_parents_bytes(rig: Rig) -> None:
    raw = await rig.begin()
    raw.frame(history_frame(2, HISTORY_2), HISTORY_2)
    stranger = WalFactory(LINE)  # its timeline 2 does not copy the parent's part
    raw.raw_span(2, START, stranger.wal(2, START, START + 50_000))
    assert (await raw.refusal()).code in (Code.WAL_CONFLICT, Code.BAD_WAL_PAGE)
    await rig.good_shipper_goes_on()


def history_frame(timeline: int, content: bytes) -> TimelineHistory:
    return TimelineHistory(timeline=timeline, crc32c=seal(content).crc32c)


# --- who says hello -------------------------------------------------------------------------


OTHERS: dict[str, tuple[dict[str, Any], set[Code]]] = {
    "another cluster": ({"system_identifier": 42}, {Code.SYSTEM_IDENTIFIER_MISMATCH}),
    "another major": ({"server_version_num": 180001}, {Code.MAJOR_MISMATCH}),
    "a major nobody knows": ({"server_version_num": 990001}, {Code.MAJOR_MISMATCH}),
    "another segment size": ({"wal_segment_size": 2 * S}, {Code.SEGMENT_SIZE_MISMATCH}),
    "an impossible segment size": (
        {"wal_segment_size": 12345},
        {Code.BAD_FRAME, Code.SEGMENT_SIZE_MISMATCH},
    ),
    "another page size": ({"wal_block_size": 4096}, {Code.COMPATIBILITY}),
}


@pytest.mark.parametrize(("changes", "codes"), OTHERS.values(), ids=OTHERS.keys())
async def test_a_primary_that_is_not_this_instances_is_refused_in_its_hello(
    rig: Rig, changes: dict[str, Any], codes: set[Code]
) -> None:
    await rig.begin()
    raw = await rig.connect()
    raw.frame(hello(boot_id="boot-x", profile=profile(**changes)))
    refusal = await raw.refusal()
    assert refusal.code in codes
    assert not refusal.retryable
    await rig.good_shipper_goes_on()


@pytest.mark.parametrize(("changes", "codes"), OTHERS.values(), ids=OTHERS.keys())
async def test_a_primary_that_turns_into_another_is_refused(
    rig: Rig, changes: dict[str, Any], codes: set[Code]
) -> None:
    raw = await rig.begin()
    raw.frame(ProfileChanged(profile=profile(**changes)))
    raw.span(HERE, 1000)
    assert (await raw.refusal()).code in codes
    await rig.good_shipper_goes_on()


async def test_a_second_hello_is_refused(rig: Rig) -> None:
    raw = await rig.begin()
    raw.frame(hello())
    assert (await raw.refusal()).code == Code.BAD_FRAME
    await rig.good_shipper_goes_on()


async def test_two_hellos_at_once_are_refused(rig: Rig) -> None:
    await rig.begin()
    raw = await rig.connect()
    raw.frame(hello(boot_id="boot-x"))
    raw.frame(hello(boot_id="boot-x"))
    assert (await raw.refusal()).code == Code.BAD_FRAME
    await rig.good_shipper_goes_on()


async def test_protocol_versions_that_do_not_meet_are_both_named(rig: Rig) -> None:
    await rig.begin()
    raw = await rig.connect()
    raw.frame(hello(version_min=7, version_max=9))
    refusal = await raw.refusal()
    assert refusal.code == Code.VERSION_MISMATCH
    assert "7 to 9" in refusal.what
    await rig.good_shipper_goes_on()


EARLY: dict[str, tuple[Frame, Payload | None]] = {
    "span": GOOD_SPAN,
    "heartbeat": (ShipperHeartbeat(timeline=1, flush_lsn=HERE, sent_at=0.0), None),
    "history": (history_frame(2, HISTORY_2), HISTORY_2),
    "seed": (SeedBegin(seed_id="x", timeline=1, start_lsn=S, estimated_bytes=0), None),
    "profile": (ProfileChanged(profile=profile()), None),
}


@pytest.mark.parametrize(("frame", "payload"), EARLY.values(), ids=EARLY.keys())
async def test_nothing_comes_before_a_hello(
    rig: Rig, frame: Frame, payload: Payload | None
) -> None:
    await rig.begin()
    raw = await rig.connect()
    raw.frame(frame, payload)
    assert (await raw.refusal()).code == Code.BAD_FRAME
    await rig.good_shipper_goes_on()


@pytest.mark.parametrize("parts", NO_FRAMES.values(), ids=NO_FRAMES.keys())
async def test_what_is_no_frame_is_refused_in_place_of_a_hello_too(
    rig: Rig, parts: list[Payload]
) -> None:
    await rig.begin()
    raw = await rig.connect()
    raw.parts(*parts)
    refusal = await raw.refusal()
    assert refusal.code in (Code.BAD_FRAME, Code.CHECKSUM_MISMATCH)
    await rig.good_shipper_goes_on()


async def test_nothing_comes_between_hello_and_welcome(rig: Rig) -> None:
    await rig.begin()
    raw = await rig.connect()
    raw.frame(hello(boot_id="boot-x"))
    raw.frame(*GOOD_SPAN)
    assert (await raw.refusal()).code == Code.BAD_FRAME
    await rig.good_shipper_goes_on()


# --- seeds ----------------------------------------------------------------------------------


async def test_wal_before_any_seed_began_is_refused(rig: Rig) -> None:
    raw = await rig.greet()
    raw.span(START, 1000)
    assert (await raw.refusal()).code == Code.BAD_FRAME
    raw = await rig.begin()
    await rig.good_shipper_goes_on()


@pytest.mark.parametrize(
    "frame",
    [
        SeedChunk(seed_id="never", sequence=0, kind="archive"),
        SeedEnd(seed_id="never", sequence=0, timeline=1, end_lsn=HERE),
    ],
    ids=["chunk", "end"],
)
async def test_a_part_of_a_seed_that_never_began_is_refused(rig: Rig, frame: Frame) -> None:
    raw = await rig.begin()
    raw.frame(frame)
    refusal = await raw.refusal()
    assert refusal.code == Code.BAD_FRAME
    assert refusal.retryable
    await rig.good_shipper_goes_on()


async def test_a_seed_that_is_no_archive_is_given_up_and_wal_goes_on(rig: Rig) -> None:
    raw = await rig.begin()
    raw.frame(SeedChunk(seed_id="s1", sequence=0, kind="archive"))
    noise = b"not a tar archive" * 100
    sealed = seal(noise)
    for sequence in (1, 2, 3):
        raw.frame(
            SeedChunk(
                seed_id="s1",
                sequence=sequence,
                kind="data",
                raw_bytes=sealed.raw_bytes,
                crc32c=sealed.crc32c,
                codec=sealed.codec,
            ),
            sealed.payload,
        )
    raw.frame(SeedEnd(seed_id="s1", sequence=4, timeline=1, end_lsn=HERE))
    await until(lambda: rig.instance.arrival.seeder is None, "it is given up")
    assert rig.alarms & {Code.BAD_TAR, Code.SEED_FAILED}
    raw.span(HERE, 1000)
    await raw.until_durable(HERE + 1000)
    await rig.good_shipper_goes_on(expected=HERE + 1000)


async def test_a_new_seed_clears_what_was_wrong_with_the_last(rig: Rig) -> None:
    raw = await rig.begin()
    raw.frame(SeedChunk(seed_id="s1", sequence=0, kind="nonsense"))
    raw.frame(SeedEnd(seed_id="s1", sequence=1, timeline=1, end_lsn=HERE))
    await asyncio.sleep(0)
    await until(lambda: rig.instance.arrival.seeder is None or raw._of(Refuse), "it is given up")
    again = await rig.greet(boot_id="boot-x")
    again.frame(SeedBegin(seed_id="s2", timeline=1, start_lsn=START + 40, estimated_bytes=0))
    await again.hear(SeedAck)
    assert rig.alarms <= {Code.NO_INSTALLATION, Code.COMPATIBILITY}
    await rig.good_shipper_goes_on()

"""Receiver `link` over real ZeroMQ: the contract, and who may ship what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from applier.receivers import unsealing
from applier.receivers.link import LinkReceiver
from logship.errors import Code, LogshipError
from logship.frames import GapFound, SeedBegin, SeedChunk
from logship.link.keys import KeyPair
from logship.link.windows import SPAN_COST_BYTES
from shipper.destinations import Lost, Rewind
from shipper.destinations.link import LinkDestination, ShipperIdentity
from tests.integration.destination_contract import Seed, Shipping, facts
from tests.integration.receiver_contract import AnsweringReceiverContract
from tests.support.fake_intake import FakeIntake, new_keys
from tests.support.link_frames import SEGMENT_BYTES, at, sealed_wal, wal_bytes
from tests.support.proxy import TcpProxy
from tests.support.waiting import until

pytestmark = pytest.mark.integration

S = SEGMENT_BYTES
HEARTBEAT_SECONDS = 2.0
"""Both ends share one loop: if that stands still for three of them, on a busy machine, each takes
the other for dead."""


class LinkRig:
    """A receiver of two instances; the key of "orders" may ship both, that of "billing" one."""

    window_bytes = 400_000
    """Of WAL, in four spans."""
    silence_seconds = 3 * HEARTBEAT_SECONDS

    def __init__(self) -> None:
        self.server_keys, self.keys, self.billing_keys = new_keys(), new_keys(), new_keys()
        self.intake, self.billing = FakeIntake(at(1, S), S), FakeIntake(at(1, S), S)
        self.receiver = LinkReceiver(
            {"orders": self.intake, "billing": self.billing},
            {
                self.keys.public: frozenset({"orders", "billing"}),
                self.billing_keys.public: frozenset({"billing"}),
            },
            keys=self.server_keys,
            window_bytes=self.window_bytes + 4 * SPAN_COST_BYTES,
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )
        self.port = int(self.receiver.start("tcp://127.0.0.1:0").rpartition(":")[2])
        self.proxy = TcpProxy("127.0.0.1", self.port)

    def make_destination(
        self,
        *,
        instance: str = "orders",
        shipper_id: str = "shipper-a",
        boot_id: str = "boot-1",
        keys: KeyPair | None = None,
    ) -> LinkDestination:
        return LinkDestination(
            self.proxy.endpoint,
            server_public_key=self.server_keys.public,
            keys=keys or self.keys,
            identity=ShipperIdentity(instance, shipper_id, boot_id, "async"),
        )

    def cut(self) -> None:
        self.proxy.cut()

    async def stop(self) -> None:
        await self.receiver.stop()


@pytest.fixture
async def rig() -> AsyncIterator[LinkRig]:
    made = LinkRig()
    async with made.proxy:
        yield made
        await made.receiver.stop()


class TestLinkReceiver(AnsweringReceiverContract):
    pass


async def refused(destination: LinkDestination) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        await destination.connect(facts())
    await destination.close("refused")
    return caught.value


async def test_an_unknown_instance_is_refused(rig: LinkRig) -> None:
    error = await refused(rig.make_destination(instance="nonesuch"))
    assert error.code is Code.UNKNOWN_INSTANCE
    assert "'nonesuch'" in error.what
    assert error.hint
    assert not error.retryable
    assert rig.intake.log == rig.billing.log == []


async def test_the_key_of_another_instance_is_refused(rig: LinkRig) -> None:
    error = await refused(rig.make_destination(keys=rig.billing_keys))
    assert error.code is Code.KEY_NOT_ALLOWED
    assert rig.billing_keys.public in error.what and "billing" in error.what
    assert not error.retryable
    assert rig.intake.log == []


async def test_a_second_shipper_waits_until_the_first_is_gone(rig: LinkRig) -> None:
    first = rig.make_destination()
    await first.connect(facts())
    second = rig.make_destination(shipper_id="shipper-b")
    error = await refused(second)
    assert error.code is Code.INSTANCE_BUSY
    assert error.retryable
    assert "shipper-a" in error.what
    assert rig.intake.gone == []
    await first.close("stopped")
    await until(lambda: rig.intake.gone, "the first is gone")
    await second.connect(facts())
    await second.close("done")


async def test_a_shipper_that_died_frees_its_instance_within_seconds(rig: LinkRig) -> None:
    first = rig.make_destination()
    await first.connect(facts())
    rig.proxy.stall()
    await until(lambda: rig.intake.gone, "its silence is noticed", 10 * HEARTBEAT_SECONDS)
    rig.proxy.resume()
    second = rig.make_destination(shipper_id="shipper-b")
    await second.connect(facts())
    await second.close("done")
    await first.close("done")


async def test_a_shipper_started_again_takes_over_and_the_old_one_is_told(rig: LinkRig) -> None:
    old = Shipping(rig)  # type: ignore[arg-type]
    await old.connect()
    old_listener = rig.intake.listener
    await old.send(1000)
    await old.hear_durable(at(1, S + 1000))
    new = Shipping(rig)  # type: ignore[arg-type]
    new.destination = rig.make_destination(boot_id="boot-2")
    assert (await new.connect()).position == at(1, S + 1000)
    (lost,) = await old.hear(Lost)
    assert lost.error.code is Code.SUPERSEDED
    assert not lost.error.retryable
    assert [who for who, _ in rig.intake.gone] == [old_listener]
    await new.send(1000)
    await new.hear_durable(at(1, S + 2000))
    assert rig.intake.wal_of(1) == wal_bytes(1, S, 2000)
    await old.close()
    await new.close()


async def test_a_shipper_that_connects_again_is_no_reason_to_warn(rig: LinkRig) -> None:
    """Its end of a link that was cut is the first to know."""
    first, again = rig.make_destination(), rig.make_destination()
    with capture_logs() as logs:
        await first.connect(facts())
        rig.proxy.stall()
        rig.proxy.cut()
        rig.proxy.resume()
        await again.connect(facts())
        await until(lambda: len(rig.intake.gone) == 1, "the old connection is let go of")
    assert [entry for entry in logs if entry["log_level"] in ("warning", "error")] == []
    await again.close("done")
    await first.close("done")


async def test_a_shipper_whose_primary_is_away_gives_way(rig: LinkRig) -> None:
    old, new = rig.make_destination(), rig.make_destination(shipper_id="shipper-b")
    await old.connect(facts()._replace(reachable=False))
    await new.connect(facts())
    lost = await asyncio.wait_for(old.next_event(), 10)
    assert isinstance(lost, Lost)
    assert (lost.error.code, lost.error.retryable) == (Code.INSTANCE_BUSY, True)
    await old.close("done")
    rig.intake.clear()  # the old one may have said the same of its own
    new.tell(facts()._replace(reachable=False))
    await until(
        lambda: any(not beat.primary_reachable for beat in rig.intake.of_kind("heartbeat")),
        "its primary went away as well",
    )
    await old.connect(facts())
    await old.close("done")
    await new.close("done")


async def test_a_shipper_whose_primary_was_left_behind_gives_way(rig: LinkRig) -> None:
    """It can ship nothing, and would keep out the one that can."""
    behind, true = rig.make_destination(), rig.make_destination(shipper_id="shipper-b")
    await true.connect(facts(timeline=2))
    true.resume(at(1, S))
    true.send_history(2, b"1\t0/100000\tno recovery target specified\n")
    true.send_span(2, S, sealed_wal(2, S, 100), S + 100)
    await until(lambda: rig.intake.of_kind("wal"), "WAL of the new timeline")
    true.tell(facts(timeline=2)._replace(reachable=False))
    await until(
        lambda: any(not beat.primary_reachable for beat in rig.intake.of_kind("heartbeat")),
        "its primary restarts",
    )
    await behind.connect(facts(timeline=1))
    await true.close("gave way")
    again = rig.make_destination(shipper_id="shipper-b")
    await again.connect(facts(timeline=2))
    lost = await asyncio.wait_for(behind.next_event(), 10)
    assert isinstance(lost, Lost) and lost.error.code == Code.INSTANCE_BUSY
    await behind.close("done")
    await again.close("done")


async def test_a_seed_waits_for_a_connection_that_has_a_primary(rig: LinkRig) -> None:
    """Begun by a shipper whose primary is away it would end the chain of another's WAL."""
    destination = rig.make_destination()
    begin = SeedBegin(seed_id="s1", timeline=1, start_lsn=9 * S, estimated_bytes=0)
    await destination.send_seed(begin, b"")
    await destination.connect(facts()._replace(reachable=False))
    chunk = SeedChunk(seed_id="s1", sequence=0, kind="manifest")
    await destination.send_seed(chunk, b"")
    destination.tell(facts()._replace(reachable=False, slot_wal_status="lost"))
    await until(lambda: rig.intake.of_kind("heartbeat"), "all that was sent before has come")
    assert rig.intake.of_kind("seed_begin") == []
    await destination.connect(facts())
    await until(lambda: rig.intake.of_kind("seed_chunk"), "the seed goes on")
    await destination.close("done")


async def test_a_gap_of_the_chain_before_does_not_set_a_seeds_back(rig: LinkRig) -> None:
    """The store finds it while the seed's begin and WAL of its chain wait behind."""
    shipping = Shipping(rig)  # type: ignore[arg-type]
    await shipping.connect()
    rig.intake.taking.clear()
    rig.intake.fail["wal"].append(LogshipError(Code.WAL_GAP, "not here any more"))
    await shipping.send(1000)
    await shipping.destination.send_seed(Seed(start_lsn=9 * S + 40).begin, b"")
    shipping.go_on_at(at(1, 9 * S))
    await shipping.send(1000)
    shipping.destination.tell(facts(slot_wal_status="extended"))
    await until(lambda: rig.intake.of_kind("heartbeat"), "all that was sent before has come")
    rig.intake.taking.set()
    await shipping.hear_durable(at(1, 9 * S + 1000))
    assert rig.intake.wal_of(1) == wal_bytes(1, 9 * S, 1000)
    assert [rewind.position for rewind in shipping.heard(Rewind)] == [at(1, 9 * S)]
    await shipping.close()


async def test_what_came_by_another_road_lets_the_shipper_go_on_behind_it(rig: LinkRig) -> None:
    shipping = Shipping(rig)  # type: ignore[arg-type]
    await shipping.connect()
    await shipping.send(1000)
    await shipping.hear_durable(at(1, S + 1000))
    hole = GapFound(
        timeline=1, from_lsn=S + 1000, available_lsn=S + 9000, code="wal-in-bucket", what="spilled"
    )
    shipping.destination.send_gap(hole)
    await until(lambda: rig.intake.of_kind("gap") == [hole], "the hole is known")
    await rig.intake.wal(1, S + 1000, wal_bytes(1, S + 1000, 8500))
    assert rig.intake.listener is not None
    rig.intake.listener.resume(at(1, S + 9500), "the bucket had it")
    (rewind,) = await shipping.hear(Rewind)
    assert rewind.position == at(1, S + 9500)
    shipping.go_on_at(rewind.position)
    await shipping.send(5000)
    await shipping.hear_durable(at(1, S + 14_500))
    assert rig.intake.wal_of(1) == wal_bytes(1, S, 14_500)
    await shipping.close()


async def test_instances_do_not_wait_for_each_other(rig: LinkRig) -> None:
    rig.intake.taking.clear()
    orders, billing = Shipping(rig), Shipping(rig)  # type: ignore[arg-type]
    billing.destination = rig.make_destination(instance="billing", keys=rig.billing_keys)
    await orders.connect()
    await billing.connect()
    await orders.send(rig.window_bytes)
    for _ in range(5):
        await billing.send(rig.window_bytes)
    await billing.hear_durable(billing.sent)
    assert rig.intake.wal_of(1) == b""
    assert rig.billing.wal_of(1) == wal_bytes(1, S, 5 * rig.window_bytes)
    await orders.close()
    await billing.close()


async def test_only_what_the_store_takes_next_is_unsealed(
    rig: LinkRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsealing, "_AHEAD", 2)
    rig.intake.taking.clear()
    shipping = Shipping(rig)  # type: ignore[arg-type]
    await shipping.connect()
    await shipping.send(rig.window_bytes)
    (connection,) = rig.receiver._connections.values()
    ahead = connection._unsealing
    await until(lambda: len(ahead.waiting) == 2, "half of the spans are left as they came")
    assert ahead.begun == 2
    rig.intake.taking.set()
    await shipping.hear_durable(shipping.sent)
    assert rig.intake.wal_of(1) == wal_bytes(1, S, rig.window_bytes)
    await until(lambda: ahead.begun == 0, "none is left")
    await shipping.close()


async def test_a_stopped_receiver_lets_go_of_its_port_and_its_connections(rig: LinkRig) -> None:
    shipping = Shipping(rig)  # type: ignore[arg-type]
    await shipping.connect()
    rig.intake.taking.clear()
    await shipping.send(1000)
    await asyncio.wait_for(rig.receiver.stop(), 5)
    assert len(rig.intake.gone) == 1
    (lost,) = await shipping.hear(Lost)
    assert lost.error.retryable
    again = LinkReceiver(
        {"orders": rig.billing},
        {rig.keys.public: frozenset({"orders"})},
        keys=rig.server_keys,
        window_bytes=rig.window_bytes,
        heartbeat_seconds=HEARTBEAT_SECONDS,
    )
    again.start(f"tcp://127.0.0.1:{rig.port}")
    await shipping.connect_patiently()
    await shipping.close()
    await again.stop()


async def test_an_instance_that_comes_later_is_shipped_and_one_that_goes_is_refused(
    rig: LinkRig,
) -> None:
    keys, intake = new_keys(), FakeIntake(at(1, S), S)
    orders, late = Shipping(rig), Shipping(rig)  # type: ignore[arg-type]
    await orders.connect()
    late.destination = rig.make_destination(instance="late", keys=keys)
    with pytest.raises(LogshipError) as caught:
        await late.connect()
    assert caught.value.code is Code.LINK_AUTHENTICATION, "nobody knows its key"
    rig.receiver.intakes["late"] = intake  # type: ignore[index]
    rig.receiver.allow(keys.public, frozenset({"late"}))
    await late.connect()
    await late.send(1000)
    await late.hear_durable(at(1, S + 1000))

    rig.receiver.forbid(keys.public)
    (lost,) = await late.hear(Lost)
    assert lost.error.code is Code.UNKNOWN_INSTANCE and not lost.error.retryable
    await until(lambda: intake.gone, "its session ended")
    with pytest.raises(LogshipError) as caught:
        await rig.make_destination(instance="late", keys=keys).connect(facts())
    assert caught.value.code is Code.LINK_AUTHENTICATION
    await orders.send(1000)
    await orders.hear_durable(at(1, S + 1000))
    await orders.close()
    await late.close()


async def test_an_instance_whose_key_is_changed_is_shipped_with_the_new_one_alone(
    rig: LinkRig,
) -> None:
    new, old = new_keys(), Shipping(rig)  # type: ignore[arg-type]
    old.destination = rig.make_destination(instance="billing", keys=rig.billing_keys)
    await old.connect()
    rig.receiver.allow(new.public, frozenset({"billing"}))
    await old.send(1000)
    await old.hear_durable(at(1, S + 1000))
    rig.receiver.forbid(rig.billing_keys.public)
    (lost,) = await old.hear(Lost)
    assert lost.error.code is Code.KEY_NOT_ALLOWED
    old.destination = rig.make_destination(instance="billing", keys=new)
    assert (await old.connect()).position == at(1, S + 1000)
    await old.close()

"""An applier that is reached while the primary is down hears that, over a real link."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from applier.receivers.link import LinkReceiver
from shipper.agent.agent import Agent
from shipper.destinations.link import LinkDestination, ShipperIdentity
from tests.support.fake_intake import FakeIntake, new_keys
from tests.support.fakes import FakeSource, primary_lost
from tests.support.link_frames import SEGMENT_BYTES, at, wal_bytes
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.integration

S = SEGMENT_BYTES


async def _no_seed(*_: object) -> None:
    raise AssertionError("no seed is wanted")


async def test_a_dead_primary_is_told_of_after_a_cut_and_comes_back_with_a_new_hello() -> None:
    server_keys, keys, endpoint = new_keys(), new_keys(), f"tcp://127.0.0.1:{free_port()}"
    intake, source, stop = FakeIntake(at(1, S), S), FakeSource(start_lsn=S), asyncio.Event()

    def applier() -> LinkReceiver:
        made = LinkReceiver(
            {"orders": intake},
            {keys.public: frozenset({"orders"})},
            keys=server_keys,
            window_bytes=400_000,
            heartbeat_seconds=0.4,
        )
        made.start(endpoint)
        return made

    destination = LinkDestination(
        endpoint,
        server_public_key=server_keys.public,
        keys=keys,
        identity=ShipperIdentity("orders", "shipper-a", "boot-1", "async"),
    )

    def hellos() -> list[Any]:
        return intake.of_kind("hello")

    receiver = applier()
    running = asyncio.create_task(Agent(source, destination, _no_seed).run(stop))
    try:
        source.flush(S + 1000)
        await until(lambda: intake.wal_of(1) == wal_bytes(1, S, 1000), "it ships")
        source.is_down = True
        source.break_read(primary_lost())
        await receiver.stop()
        intake.clear()
        receiver = applier()
        await until(hellos, "it connects all the same")
        assert not hellos()[0].primary_reachable
        assert hellos()[0].flush_lsn == 0
        await until(lambda: intake.of_kind("heartbeat"), "it goes on saying so")
        assert not intake.of_kind("heartbeat")[0].primary_reachable
        source.is_down = False
        await until(lambda: hellos()[-1].primary_reachable, "the primary is back")
        source.flush(S + 2000)
        await until(lambda: intake.wal_of(1) == wal_bytes(1, S, 2000), "it ships again")
    finally:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)
        await receiver.stop()

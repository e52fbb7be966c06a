"""The status document: what is not known is null, never 0 or ""."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from applier.operations.instance import Instance
from applier.operations.record import Heard
from applier.operations.state import instance_status
from applier.service import Service
from applier.settings import ApplierSettings
from applier.standby.life import STEADY_SECONDS, LifeState
from applier.standby.status import StandbyStatus
from logship.frames import GapFound, OtherRoad, ShipperHeartbeat
from logship.lsn import Lsn
from tests.support.link_frames import SEGMENT_BYTES, hello, profile
from tests.support.waiting import until
from tests.support.wal_factory import WalFactory, wal_line
from tests.unit.applier.operations.conftest import Listener, change_settings

S = SEGMENT_BYTES
FACTORY = WalFactory(wal_line(17, S))


def test_of_an_instance_that_never_heard_anything_everything_is_unknown(
    instance: Instance,
) -> None:
    document: Any = instance_status(instance)
    room = document.pop("room")
    assert 0 < room["bytes"] == room["free_bytes"] - (1 << 20), "less what is to stay free"
    assert document == {
        "name": "orders",
        "phase": "waiting",
        "link": {"state": "never", "since": None},
        "incarnation": None,
        "previous": [],
        "protection": {"configured": None, "in_effect": "unknown"},
        "primary": {
            "flush_lsn": None,
            "timeline": None,
            "heard_at": None,
            "reachable": None,
            "slot_wal_status": None,
        },
        "store": {"start": None, "written": None, "durable": None},
        "standby": {
            "state": None,
            "version": None,
            "chosen": None,
            "port": instance.settings.port,
            "flush_lsn": None,
            "replay_lsn": None,
            "last_error": None,
        },
        "transfer_gap": {"bytes": None, "seconds": None},
        "apply_gap": {"bytes": None, "seconds": None},
        "seed": None,
        "gap": None,
        "bucket": None,
        "other_roads": None,
        "compat": None,
        "promotion": None,
        "last_drill": None,
        "alarms": [],
        "budget": {"memory": None, "disk": None, "intake_bytes_per_second": None, "turn": None},
    }


async def test_it_can_be_sent_as_json_at_every_stage(
    service: Service, instance: Instance, listener: Listener
) -> None:
    def sent() -> Any:
        return json.loads(msgspec.json.encode(service.instance("orders")))

    assert sent()["phase"] == "waiting"
    await instance.hello(hello(protection="sync", flush_lsn=5 * S), listener)
    document = sent()
    assert document["link"]["state"] == "connected"
    assert document["incarnation"] == {
        "system_identifier": str(profile().system_identifier),
        "major": 17,
    }
    assert document["protection"] == {"configured": "sync", "in_effect": "unknown"}
    assert document["primary"]["flush_lsn"] == "0/500000"
    assert document["transfer_gap"] == {"bytes": None, "seconds": None}, "nothing is stored"


async def stream(instance: Instance, listener: Listener) -> None:
    """A chain from 4 S on, 50 000 bytes of it durable, the primary at 5 S."""
    await instance.hello(hello(flush_lsn=5 * S), listener)
    assert instance.store is not None
    await instance.store.begin_chain(1, 4 * S)
    instance.following.serving.chain_began()
    await instance.wal(1, 4 * S, FACTORY.wal(1, 4 * S, 4 * S + 50_000))
    await until(lambda: instance.store and instance.store.durable == (1, 4 * S + 50_000), "durable")


async def test_what_is_missing_here_is_counted_from_what_was_heard(
    instance: Instance, listener: Listener
) -> None:
    await stream(instance, listener)
    document = instance_status(instance)
    assert document["store"] == {
        "start": "1:0/400000",
        "written": "1:0/40C350",
        "durable": "1:0/40C350",
    }
    gap = document["transfer_gap"]
    assert gap["bytes"] == S - 50_000
    assert gap["seconds"] is not None and gap["seconds"] >= 0
    instance.sender.heard = Heard(timeline=1, lsn=4 * S + 50_000, at=0.0)
    assert instance_status(instance)["transfer_gap"] == {"bytes": 0, "seconds": 0.0}


async def test_since_when_something_is_missing_is_not_known_after_a_restart(
    service: Service, settings: ApplierSettings, instance: Instance, listener: Listener
) -> None:
    await stream(instance, listener)
    await service.close()
    again = Service(settings)
    await again.open()
    document: Any = again.instance("orders")
    await again.close()
    assert document["link"]["state"] == "lost"
    assert document["transfer_gap"] == {"bytes": S - 50_000, "seconds": None}


async def test_what_is_not_replayed_has_an_age(instance: Instance, listener: Listener) -> None:
    await stream(instance, listener)
    assert instance_status(instance)["apply_gap"] == {"bytes": None, "seconds": None}
    instance.following.serving.applied_lsn = Lsn(4 * S + 10)
    gap = instance_status(instance)["apply_gap"]
    assert gap["bytes"] == 49_990
    assert gap["seconds"] is not None and 0 < gap["seconds"] < 60
    instance.following.serving.applied_lsn = Lsn(4 * S + 50_000)
    assert instance_status(instance)["apply_gap"] == {"bytes": 0, "seconds": 0.0}


async def test_how_a_seed_gets_on_is_shown(instance: Instance) -> None:
    seeder = SimpleNamespace(received_bytes=30_000_000, estimated_bytes=90_000_000)
    instance.arrival.seeder = seeder  # type: ignore[assignment]
    began_at = time.monotonic() - 10
    for second in range(10):
        instance.arrival.pace.arrived(second * 3_000_000, began_at + second)
    instance.arrival.pace.arrived(30_000_000, began_at + 10)
    try:
        document: Any = instance_status(instance)
    finally:
        instance.arrival.seeder = None
    assert document["phase"] == "seeding"
    assert document["seed"] == {
        "running": True,
        "bytes_done": 30_000_000,
        "bytes_estimated": 90_000_000,
        "bytes_per_second": pytest.approx(3_000_000, rel=0.2),
        "seconds_left": pytest.approx(20, rel=0.2),
    }


async def test_what_was_said_long_ago_is_not_shown_as_in_effect(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    beat = ShipperHeartbeat(
        timeline=1, flush_lsn=5 * S, sent_at=0.0, sync_state="sync", slot_wal_status="extended"
    )
    instance.heartbeat(beat)
    document = instance_status(instance)
    assert document["protection"]["in_effect"] == "sync"
    assert document["primary"]["reachable"] is True
    assert document["primary"]["slot_wal_status"] == "extended"
    instance.lost(listener, "gone")
    document = instance_status(instance)
    assert document["link"]["state"] == "lost"
    assert document["protection"]["in_effect"] == "unknown"
    assert document["primary"]["reachable"] is None
    assert document["primary"]["flush_lsn"] == "0/500000", "the last that was heard"


async def test_what_the_shipper_says_of_its_other_roads_is_shown_while_it_is_there(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    assert instance_status(instance)["other_roads"] is None, "it has not said so yet"
    road = OtherRoad(
        name="bucket", role="spill", state="spilling", timeline=1, durable_lsn=7 * S, since_lsn=S
    )
    instance.heartbeat(
        ShipperHeartbeat(timeline=1, flush_lsn=5 * S, sent_at=0.0, other_roads=[road])
    )
    assert instance_status(instance)["other_roads"] == [
        {
            "name": "bucket",
            "role": "spill",
            "state": "spilling",
            "durable": "0/700000",
            "since_lsn": "0/100000",
            "available_lsn": None,
            "what": None,
        }
    ]
    instance.lost(listener, "gone")
    assert instance_status(instance)["other_roads"] is None
    await instance.hello(hello(), listener)
    assert instance_status(instance)["other_roads"] is None, "what was is not what is"


async def test_a_standbys_last_error_is_shown_until_it_has_run_for_a_while(
    instance: Instance,
) -> None:
    """What ended it an hour ago is in its log, and is no news of how it is."""

    def shown(state: LifeState, state_seconds: float) -> Any:
        status = StandbyStatus(state, 1, state_seconds, 1, "PANIC: gone", None, False, ())
        instance.following.standby = SimpleNamespace(status=lambda: status)  # type: ignore[assignment]
        return instance_status(instance)["standby"]["last_error"]

    try:
        assert shown(LifeState.WAITING, 3600.0) == "PANIC: gone"
        assert shown(LifeState.RUNNING, STEADY_SECONDS - 1) == "PANIC: gone"
        assert shown(LifeState.RUNNING, STEADY_SECONDS) is None
    finally:
        instance.following.standby = None


async def test_a_standby_that_is_started_again_and_again_is_an_alarm(instance: Instance) -> None:
    def alarms(restarts: int, state: LifeState, state_seconds: float) -> list[str]:
        server = StandbyStatus(state, 1, state_seconds, restarts, "PANIC: gone", None, False, ())
        instance.following.standby = SimpleNamespace(status=lambda: server)  # type: ignore[assignment]
        return [each["what"] for each in instance_status(instance)["alarms"]]

    try:
        assert alarms(3, LifeState.WAITING, 1.0) == []
        (what,) = alarms(4, LifeState.WAITING, 1.0)
        assert "does not stay up" in what and "PANIC: gone" in what
        assert alarms(4, LifeState.STARTING, 1.0) == alarms(4, LifeState.RUNNING, 1.0) == [what]
        assert alarms(4, LifeState.RUNNING, STEADY_SECONDS) == []
    finally:
        instance.following.standby = None


def test_a_parameter_that_keeps_a_standby_down_is_named_with_the_way_back(
    instance: Instance,
) -> None:
    change_settings(instance, settings={"work_memm": "1MB", "jit": False})
    why = (
        'LOG:  unrecognized configuration parameter "work_memm" in file "/jit/postgresql.conf"; '
        "FATAL:  configuration file contains errors"
    )
    server = StandbyStatus(LifeState.WAITING, 1, 1.0, 4, why, None, False, ())
    instance.following.standby = SimpleNamespace(status=lambda: server)  # type: ignore[assignment]
    try:
        (alarm,) = instance_status(instance)["alarms"]
    finally:
        instance.following.standby = None
    assert alarm["hint"].startswith("applier change orders --unset settings.work_memm (")
    assert "remove work_memm there" in alarm["hint"]


async def test_a_gap_is_shown_until_wal_flows_again(instance: Instance, listener: Listener) -> None:
    await stream(instance, listener)
    instance.gap_found(
        GapFound(timeline=1, from_lsn=4 * S, available_lsn=0, code="wal-removed", what="gone")
    )
    document = instance_status(instance)
    assert document["gap"] == {
        "from_lsn": "0/400000",
        "available_lsn": None,
        "code": "wal-removed",
        "what": "gone",
        "filling": False,
    }
    assert "wal-gap" in [alarm["code"] for alarm in document["alarms"]]
    place = 4 * S + 50_000
    await instance.wal(1, place, FACTORY.wal(1, place, place + 100))
    document = instance_status(instance)
    assert document["gap"] is None
    assert "wal-gap" not in [alarm["code"] for alarm in document["alarms"]]

"""What is believed of the primary while its sender can't reach it."""

from __future__ import annotations

import pytest

from applier.operations.instance import Instance
from logship.frames import ShipperHeartbeat
from tests.support.link_frames import hello
from tests.unit.applier.operations.conftest import Listener


def heartbeat(flush_lsn: int, *, reachable: bool) -> ShipperHeartbeat:
    return ShipperHeartbeat(
        timeline=1, flush_lsn=flush_lsn, sent_at=0.0, primary_reachable=reachable
    )


@pytest.mark.parametrize("said", [1000, 5000])
async def test_what_was_archived_takes_back_nothing_of_what_was_heard(
    instance: Instance, listener: Listener, said: int
) -> None:
    await instance.hello(hello(flush_lsn=5000), listener)
    heard = instance.heard
    assert heard is not None
    assert heard.lsn == 5000
    instance.heartbeat(heartbeat(said, reachable=False))
    instance.heard_with_span(1, said)
    assert instance.heard == heard, "nor is it heard anew"


async def test_more_than_was_heard_counts(instance: Instance, listener: Listener) -> None:
    await instance.hello(hello(flush_lsn=5000), listener)
    instance.heartbeat(heartbeat(6000, reachable=False))
    assert instance.heard is not None
    assert instance.heard.lsn == 6000


async def test_a_primary_that_is_there_is_heard_each_time(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(flush_lsn=5000), listener)
    before = instance.heard
    assert before is not None
    instance.heartbeat(heartbeat(5000, reachable=True))
    assert instance.heard is not None
    assert instance.heard.at > before.at

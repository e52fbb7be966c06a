"""What the last drill showed: read when it is another, and never hidden because it can't be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from applier.operations.instance import Instance
from applier.operations.last_drill import Drill, Failure, LastDrill, drill_path, save_drill
from applier.operations.state import instance_status
from logship.identity import Incarnation
from tests.support.link_frames import hello
from tests.unit.applier.operations.conftest import Listener

PASSED = Drill(
    at=5.0, incarnation="", seconds=1.5, timeline=1, lsn="0/5000060", last_commit_time=4.0
)
FAILED = Drill(
    at=6.0, incarnation="", failure=Failure(code="bad-tar", what="it is torn", hint="seed it")
)


def test_each_new_one_is_seen(tmp_path: Path) -> None:
    last = LastDrill(tmp_path)
    assert last.now() is None
    save_drill(tmp_path, PASSED)
    assert last.now() == PASSED and last.now() is last.now(), "it is read once"
    save_drill(tmp_path, FAILED)
    assert last.now() == FAILED
    drill_path(tmp_path).unlink()
    assert last.now() is None


@pytest.mark.parametrize(
    "content", [b'{"at": \xff', b"", b"[]", b'{"at": "x", "incarnation": ""}', b" " * (1 << 21)]
)
def test_one_that_can_not_be_read_did_not_pass(tmp_path: Path, content: bytes) -> None:
    drill_path(tmp_path).write_bytes(content)
    os.utime(drill_path(tmp_path), (7.0, 7.0))
    found = LastDrill(tmp_path).now()
    assert found is not None and found.failure is not None and found.at == 7.0
    assert str(drill_path(tmp_path)) in found.failure.what and found.failure.hint


async def test_the_status_tells_of_it_and_a_failure_is_an_alarm(
    instance: Instance, listener: Listener
) -> None:
    save_drill(instance.directory, PASSED)
    document = instance_status(instance)
    assert document["last_drill"] == {
        "at": 5.0,
        "passed": True,
        "seconds": 1.5,
        "timeline": 1,
        "lsn": "0/5000060",
        "last_commit_time": 4.0,
        "error": None,
    }
    assert document["alarms"] == []
    save_drill(instance.directory, FAILED)
    document = instance_status(instance)
    assert document["last_drill"] is not None and not document["last_drill"]["passed"]
    assert document["last_drill"]["error"] == {
        "code": "bad-tar",
        "what": "it is torn",
        "hint": "seed it",
    }
    (alarm,) = document["alarms"]
    assert alarm["code"] == "drill-failed" and "it is torn" in alarm["what"]
    assert "seed it" in alarm["hint"] and "applier drill orders" in alarm["hint"]


async def test_what_was_recovered_of_another_cluster_proves_nothing(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    mine = instance.record.incarnation
    assert mine is not None
    before = Incarnation(mine.system_identifier, mine.major - 1)
    for drill in (PASSED, FAILED):
        of_before = Drill(at=drill.at, incarnation=str(before), failure=drill.failure)
        save_drill(instance.directory, of_before)
        document = instance_status(instance)
        assert document["last_drill"] is None
        assert "drill-failed" not in [alarm["code"] for alarm in document["alarms"]]
    save_drill(instance.directory, Drill(at=9.0, incarnation=str(mine)))
    document = instance_status(instance)
    assert document["last_drill"] is not None and document["last_drill"]["at"] == 9.0

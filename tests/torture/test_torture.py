"""Twenty rounds of `tests.torture`; `make torture MINUTES=n` runs new ones for longer."""

from __future__ import annotations

import ast
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from logship.lsn import Lsn
from tests.support.clusters import ClusterTemplates
from tests.support.directories import open_directory
from tests.support.servers import PrimaryServer
from tests.torture import __main__ as torture_program
from tests.torture import disk
from tests.torture.disk import SmallDisk
from tests.torture.judge import Violation, check_record
from tests.torture.plan import make_plan
from tests.torture.processes import SteppedProcess
from tests.torture.round import Round

ROOT = Path(__file__).resolve().parents[2]
_HOSTS = ("shipper", "applier", "standby", "primary")
SEEDS = (*range(1, 7), 47, *range(8, 13), 23, *range(14, 21))
"""Twenty plans that have all there is between them (`test_the_rounds_bring_…`)."""


@pytest.fixture
def place() -> Iterator[Path]:
    """On the disk, as in `make torture`: how long syncs take is part of what happens."""
    path = open_directory(on_disk=True)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.e2e
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_promised_is_lost(
    seed: int, place: Path, cluster_templates: ClusterTemplates
) -> None:
    """Sync loses nothing, async no more than was not durable; opened whole, with no hand."""
    plan = make_plan(seed)
    print(plan)
    torture = Round(plan, place, cluster_templates, print)
    try:
        torture.run()
    finally:
        torture.destroy()
    if torture.skipped:
        pytest.skip(f"the rest of the round is well; left out: {', '.join(torture.skipped)}")


def test_the_rounds_bring_every_fault_and_major_under_each_protection() -> None:
    plans = [make_plan(seed) for seed in SEEDS]
    every = {(host, kind) for host in _HOSTS for kind in ("kill", "stop")}
    every |= {("link", kind) for kind in ("cut", "reset", "stall", "slow", "refuse")}
    every |= {("disk", "full"), ("disk", "read-only"), ("clocks", "step")}
    for way in ("sync", "async"):
        these = [plan for plan in plans if plan.protection == way]
        faults = {(fault.target, fault.kind) for plan in these for fault in plan.faults}
        assert not every - faults, way
        assert {plan.major for plan in these} == {14, 15, 16, 17, 18}
        for either in ("calm_end", "offline", "lose_standby", "old_line_returns"):
            assert {getattr(plan, either) for plan in these} == {True, False}, (way, either)


def test_the_same_seed_makes_the_same_plan() -> None:
    assert make_plan(7) == make_plan(7)
    assert make_plan(7) != make_plan(8)


def test_a_record_that_forgot_what_the_status_showed_is_found() -> None:
    record = {"heard": {"timeline": 1, "lsn": 0x3000000}, "lost_bytes": 0x1000}
    check_record(record, durable=Lsn(0x2FFF000), shown=Lsn(0x3000000))
    with pytest.raises(Violation, match="the status showed 0/3000001"):
        check_record(record, durable=Lsn(0x2FFF000), shown=Lsn(0x3000001))


def test_a_disk_that_cannot_be_mounted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []

    def run(program: str, *arguments: object, accept: tuple[int, ...] = (0,)) -> None:
        commands.append(program)
        if program == "mount":
            raise OSError("no loop device is free")

    monkeypatch.setattr(disk, "_not_permitted", lambda: "")
    monkeypatch.setattr(disk, "_run", run)
    with pytest.raises(OSError, match="no loop device is free"):
        SmallDisk(tmp_path / "applier").mount()
    assert commands == ["mkfs.ext4", "mount"]
    assert not (tmp_path / "applier.img").exists()


def test_a_round_that_cannot_be_made_leaves_no_disk_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []

    def no_server(*_: object, **__: object) -> None:
        raise OSError("initdb failed")

    monkeypatch.setattr(SmallDisk, "mount", lambda self: did.append("mount"))
    monkeypatch.setattr(SmallDisk, "unmount", lambda self: did.append("unmount"))
    monkeypatch.setattr(PrimaryServer, "create", no_server)
    with_disk = next(
        plan
        for plan in map(make_plan, SEEDS)
        if any(fault.target == "disk" for fault in plan.faults)
    )
    with pytest.raises(OSError, match="initdb failed"):
        Round(with_disk, tmp_path, ClusterTemplates(tmp_path / "templates"), print)
    assert did == ["mount", "unmount"]


def test_a_round_that_cannot_be_made_is_told_as_failed_and_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_round(*_: object) -> None:
        raise OSError("no loop device is free")

    monkeypatch.setattr(torture_program, "Round", no_round)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert not torture_program.run_round(7, aloud=False)
    assert "FAILED, seed 7: OSError: no loop device is free" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_no_other_wall_clock_is_read() -> None:
    """The clock steps of a round reach all that Logship decides by the time of day."""
    for package in ("logship", "shipper", "applier"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                assert not _reads_another_clock(node), f"{path}: {ast.unparse(node)}"


def test_the_usual_spellings_of_another_wall_clock_are_found() -> None:
    others = (
        "datetime.now(UTC)", "datetime.datetime.now()", "date.today()", "time.time_ns()",
        "time.strftime('%H')", "time.gmtime()", "time.localtime(None)", "time.ctime()",
        "time.asctime()", "time.clock_gettime(time.CLOCK_REALTIME)",
        "from time import time_ns", "from time import monotonic, strftime as text",
    )  # fmt: skip
    for other in others:
        assert any(map(_reads_another_clock, ast.walk(ast.parse(other)))), other
    allowed = "time.strftime('%H', time.gmtime(at)); datetime.fromtimestamp(time.time(), UTC)"
    allowed += "; from time import monotonic"
    assert not any(map(_reads_another_clock, ast.walk(ast.parse(allowed))))


_OTHER_CLOCKS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time_ns"}
_TAKES_A_TIME = {
    "time.strftime": 1, "time.gmtime": 0, "time.localtime": 0, "time.ctime": 0, "time.asctime": 0,
}  # fmt: skip
"""Functions that read the clock themselves if they are given no time, and where that goes."""

_NO_CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "process_time", "sleep"}
"""Of the module time: what does not read the time of day."""


def _reads_another_clock(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr.startswith("CLOCK_REALTIME")
    if isinstance(node, ast.ImportFrom):
        # Called by a name without its module, nothing below would know it.
        return node.module == "time" and any(name.name not in _NO_CLOCKS for name in node.names)
    if not isinstance(node, ast.Call):
        return False
    function = ast.unparse(node.func)
    if not _OTHER_CLOCKS.isdisjoint({function, function.removeprefix("datetime.")}):
        return True
    place = _TAKES_A_TIME.get(function)
    if place is None:
        return False
    return len(node.args) <= place or ast.unparse(node.args[place]) == "None"


_TELLS = """
import gc, inspect, json, time
from types import FunctionType
from applier import service
from shipper import agent

def main():
    real = inspect.getclosurevars(time.time).nonlocals["real_time"]
    found = {"stepped": [], "real": []}
    for each in gc.get_objects():
        if isinstance(each, FunctionType) and str(each.__module__).startswith(OURS):
            given = [*(each.__defaults__ or ()), *(each.__kwdefaults__ or {}).values()]
            for name, clock in (("stepped", time.time), ("real", real)):
                if any(value is clock for value in given):
                    found[name].append(each.__qualname__)
    print(json.dumps(found), round(time.time() - real()))

OURS = ("applier", "logship", "shipper")
"""


def test_the_stepped_clock_is_also_the_one_that_defaults_were_bound_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "telling").mkdir()
    (tmp_path / "telling" / "commands.py").write_text(_TELLS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = SteppedProcess("telling", tmp_path / "none.toml", tmp_path / "log")
    process.step(3600.0)
    process.start()
    assert process.wait() == 0, process.log
    found, _, ahead = process.log.rpartition(" ")
    bound = json.loads(found)
    assert {"WalServer.__init__", "SeedArchiveWriter.__init__"} <= set(bound["stepped"])
    assert (bound["real"], ahead) == ([], "3600\n")

"""The kernel's limit on a server's memory, on a real cgroup file system where there is one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from applier.standby.cgroups import MAX_PER_HIGH, PREFIX, Cgroups
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

SHARE_MB = 64


@pytest.fixture
def process() -> Iterator[int]:
    """A process with a child, as a postmaster has."""
    child = "sleep 60 & echo ready; wait"
    with subprocess.Popen(
        ["sh", "-c", child], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        yield started.pid
        os.killpg(started.pid, signal.SIGKILL)


@pytest.fixture
def group(process: int) -> Iterator[Path]:
    """Where the process is to be; nothing is left there."""
    cgroups = Cgroups.find()
    if cgroups.parent is None:
        pytest.skip(f"no cgroup can be made here: {cgroups.why}")
    group = cgroups.parent / f"{PREFIX}test-{process}"
    yield group
    os.killpg(process, signal.SIGKILL)
    if group.exists():
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 10, "they have ended")
        group.rmdir()


def test_the_kernel_holds_a_server_and_its_processes_to_the_share(
    process: int, group: Path
) -> None:
    cgroups = Cgroups.find()
    name = group.name.removeprefix(PREFIX)
    assert cgroups.contain(name, process, SHARE_MB)
    limits = [int((group / name).read_text()) for name in ("memory.high", "memory.max")]
    assert limits == [SHARE_MB << 20, MAX_PER_HIGH * SHARE_MB << 20]
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    inside = (group / "cgroup.procs").read_text().split()
    assert sorted(inside) == sorted([str(process), *children])
    assert len(inside) == 2

    cgroups.lift(name)
    assert {(group / f"memory.{each}").read_text() for each in ("high", "max")} == {"max\n"}
    cgroups.remove(name)
    assert group.is_dir(), "they are still in it"
    os.killpg(process, signal.SIGKILL)
    wait_until(lambda: not (group / "cgroup.procs").read_text(), 10, "they have ended")
    cgroups.remove(name)
    assert not group.exists()

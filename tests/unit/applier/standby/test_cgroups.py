"""The kernel's limits: where they are made, and what is said where they can't be.

The files are plain ones in a directory: this shows what is read and written, not that the
kernel heeds it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from applier.standby.cgroups import Cgroups

MEGABYTE = 1 << 20


class Host:
    """What /proc and the cgroup file system would show a process in `unit`."""

    def __init__(self, directory: Path, *, own: str = "/system.slice/unit/applier") -> None:
        self.proc = directory / "proc"
        self.proc.mkdir()
        self.mount = directory / "cgroup"
        self.parent = self.mount / "system.slice" / "unit"
        (self.parent / "applier").mkdir(parents=True)
        (self.parent / "cgroup.controllers").write_text("cpu memory pids\n")
        (self.parent / "cgroup.subtree_control").write_text("pids\n")
        (self.proc / "cgroup").write_text(f"1:cpu:/\n0::{own}\n")
        (self.proc / "mountinfo").write_text(
            "20 1 0:19 / /proc rw - proc proc rw\n"
            f"30 1 0:26 / {self.mount} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
        )

    def find(self) -> Cgroups:
        return Cgroups.find(self.proc)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def process() -> Iterator[int]:
    """A process with a child, as a postmaster has."""
    child = "sleep 60 & echo ready; wait"
    with subprocess.Popen(["sh", "-c", child], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        yield started.pid
        for each in Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split():
            os.kill(int(each), 9)


def test_a_server_gets_a_cgroup_beside_our_own_with_its_share_as_limit(
    host: Host, process: int
) -> None:
    cgroups = host.find()
    assert cgroups.parent == host.parent
    control = host.parent / "cgroup.subtree_control"
    assert control.read_text() == "pids\n", "looking changes nothing"
    assert cgroups.contain("orders", process, 100)
    assert control.read_text() == "+memory"
    group = host.parent / "logship-standby-orders"
    assert (group / "memory.high").read_text() == str(100 * MEGABYTE)
    assert (group / "memory.max").read_text() == str(200 * MEGABYTE)
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    assert (group / "cgroup.procs").read_text() == children[-1], "its child comes after it"

    assert cgroups.contain("orders", process, 400), "a promotion gives it more"
    assert (group / "memory.high").read_text() == str(400 * MEGABYTE)


def without_files(group: Path) -> None:
    """The kernel's own are no obstacle to a directory's end."""
    for file in group.iterdir():
        file.unlink()


def test_what_was_made_for_a_server_goes_with_it(host: Host, process: int) -> None:
    cgroups = host.find()
    cgroups.remove("orders")
    assert cgroups.contain("orders", process, 100)
    group = host.parent / "logship-standby-orders"
    cgroups.remove("orders")  # as where a process is still in it
    assert (group / "memory.max").read_text() == str(200 * MEGABYTE)
    without_files(group)
    cgroups.remove("stock")
    assert group.is_dir()
    cgroups.remove("orders")
    assert not group.exists()
    Cgroups(None).remove("orders")


def test_a_server_that_is_left_to_another_is_held_to_nothing(host: Host, process: int) -> None:
    cgroups = host.find()
    cgroups.lift("orders")
    group = host.parent / "logship-standby-orders"
    assert not group.exists()
    assert cgroups.contain("orders", process, 100)
    cgroups.lift("orders")
    assert {(group / f"memory.{name}").read_text() for name in ("high", "max")} == {"max"}
    (group / "memory.max").unlink()
    (group / "memory.max").mkdir()
    cgroups.lift("orders")
    Cgroups(None).lift("orders")


def test_who_is_alone_in_what_is_seen_of_the_cgroups_has_no_place(tmp_path: Path) -> None:
    cgroups = Host(tmp_path, own="/").find()
    assert cgroups.parent is None
    assert "own cgroup" in cgroups.why
    assert not cgroups.contain("orders", os.getpid(), 100)


def test_a_missing_controller_is_named(host: Host) -> None:
    (host.parent / "cgroup.controllers").write_text("cpu pids\n")
    assert "has no memory controller" in host.find().why


def test_version_1_alone_is_not_enough(host: Host) -> None:
    (host.proc / "cgroup").write_text("4:memory:/system.slice\n")
    assert host.find().parent is None


def test_a_server_that_has_ended_meanwhile_is_no_failure_of_ours(host: Host) -> None:
    cgroups = host.find()
    (host.parent / "logship-standby-orders").write_text("in the way")
    assert not cgroups.contain("orders", os.getpid(), 100)

"""Paths that one process alone sees: made with and without root's rights, and gone with it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from logship.postgres.private_paths import FAILED_STATUS, PrivatePaths, sees, why_not
from tests.support.processes import make_server_directory, server_run_as
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

RUN_AS = server_run_as()
ROOT_WITHOUT_MOUNTING = ("setpriv", "--bounding-set", "-sys_admin")
WAITS = "touch {path}/made && id -u && echo $(ls {beside}) && exec sleep 60"


@pytest.fixture(scope="module", autouse=True)
def _permitted() -> None:
    why = why_not(RUN_AS)
    if why:
        pytest.skip(f"mount namespaces are not permitted here: {why}")


@pytest.fixture(params=("as we are", "root that may not mount"))
def prefix(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if request.param == "as we are":
        return ()
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("that takes root, and setpriv of util-linux")
    return ROOT_WITHOUT_MOUNTING


@contextmanager
def running(command: list[str | Path], directory: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_process_sees_our_directories_and_nobody_else_does(
    shared_tmp_path: Path, prefix: tuple[str, ...]
) -> None:
    ours, other, root = (shared_tmp_path / name for name in ("ours", "other", "root"))
    for directory in (ours, other):
        make_server_directory(directory)
    root.mkdir()
    (shared_tmp_path / "beside").mkdir()
    (shared_tmp_path / "beside" / "known").symlink_to("nowhere")
    at_the_top = Path(f"/logship-{secrets.token_hex(4)}/fast")
    below = shared_tmp_path / "beside" / "new" / "deep"
    paths = PrivatePaths(root, {at_the_top: ours, below: other, shared_tmp_path / "other": ours})
    script = WAITS.format(path=at_the_top, beside=shared_tmp_path / "beside")
    command = [*prefix, *paths.command(RUN_AS, ["/bin/sh", "-c", script])]
    with running(command, shared_tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{RUN_AS.uid}\n"
        assert process.stdout.readline() == "known new\n"
        assert sees(process.pid, at_the_top, ours)
        assert sees(process.pid, shared_tmp_path / "other", ours)
        assert sees(process.pid, below, other)
        assert not sees(process.pid, below, ours)
        assert sees(process.pid, shared_tmp_path, shared_tmp_path), "the rest is the machine's"
        assert Path(f"/proc/{process.pid}/cwd").samefile(shared_tmp_path)
        assert not at_the_top.parent.exists()
        assert not below.parent.exists()
        assert os.listdir(ours) == ["made"]
        assert os.listdir(root) == []
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
    wait_until(lambda: not sees(process.pid, at_the_top, ours), 30, "its end")


def test_what_can_not_be_shown_is_said_and_nothing_runs(shared_tmp_path: Path) -> None:
    paths = PrivatePaths(shared_tmp_path / "missing", {shared_tmp_path / "there": shared_tmp_path})
    command = paths.command(RUN_AS, ["/bin/touch", shared_tmp_path / "ran"])
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == FAILED_STATUS
    assert done.stderr == (
        f"no mounts of its own: No such file or directory ({shared_tmp_path}/missing)\n"
    )
    assert not (shared_tmp_path / "ran").exists()


def test_a_path_below_another_one_is_seen_too(shared_tmp_path: Path) -> None:
    ours, other, root = (shared_tmp_path / name for name in ("ours", "other", "root"))
    for directory in (ours, other):
        make_server_directory(directory)
    root.mkdir()
    above = shared_tmp_path / "beside"
    paths = PrivatePaths(root, {above / "below": other, above: ours})
    command = paths.command(RUN_AS, ["/bin/sh", "-c", "echo there && exec sleep 60"])
    with running(command, shared_tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        assert sees(process.pid, above, ours)
        assert sees(process.pid, above / "below", other)

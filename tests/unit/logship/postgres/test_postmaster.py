"""postmaster.pid as it is while being written, and after its server's death."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from logship.postgres.postmaster import (
    PID_FILE,
    Status,
    read_pid_file,
    running_postmaster,
    stale_locks,
)


def write(directory: Path, text: str) -> None:
    (directory / PID_FILE).write_text(text)


@pytest.mark.parametrize("text", ["", "\n", "not a number\n/data\n"])
def test_a_file_not_yet_written_is_none(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    assert read_pid_file(tmp_path) is None


def test_no_file_and_no_directory_are_none(tmp_path: Path) -> None:
    assert read_pid_file(tmp_path) is None
    assert read_pid_file(tmp_path / "missing") is None
    assert stale_locks(tmp_path) == []


@pytest.mark.parametrize("status", ["starting", "standby ", "ready   ", "stopping"])
def test_every_status_is_read(tmp_path: Path, status: str) -> None:
    write(tmp_path, f"77\n/data\n1700000000\n5433\n/run/x\n\n  1 2\n{status}\n")
    assert read_pid_file(tmp_path) == (77, 5433, Path("/run/x"), Status(status.strip()))


def test_a_server_is_starting_until_it_says_more(tmp_path: Path) -> None:
    write(tmp_path, "77\n/data\n1700000000\n")
    assert read_pid_file(tmp_path) == (77, None, None, Status.STARTING)


def test_another_programs_process_id_is_no_server_and_a_stale_lock(tmp_path: Path) -> None:
    write(tmp_path, f"{os.getpid()}\n{tmp_path}\n1700000000\n5433\n{tmp_path}\n\n\nready   \n")
    lock = tmp_path / ".s.PGSQL.5433.lock"
    assert running_postmaster(tmp_path) is None
    assert stale_locks(tmp_path) == [tmp_path / PID_FILE]
    lock.write_text(f"{os.getpid()}\n")
    assert stale_locks(tmp_path) == [tmp_path / PID_FILE, lock]
    lock.write_text("1\n")  # of a server that has come since
    assert stale_locks(tmp_path) == [tmp_path / PID_FILE]


@pytest.mark.parametrize("text", ["²\n", "9" * 5000, "99999999999\n", "0\n", "1_0\n"])
def test_a_damaged_process_id_is_none(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    assert read_pid_file(tmp_path) is None
    assert stale_locks(tmp_path) == []


@pytest.mark.parametrize("port", ["54²2", "٣", "9" * 5000, "65536"])
def test_a_damaged_port_is_not_known(tmp_path: Path, port: str) -> None:
    write(tmp_path, f"77\n/data\n1700000000\n{port}\n")
    assert read_pid_file(tmp_path) == (77, None, None, Status.STARTING)

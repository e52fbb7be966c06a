"""Where tests let servers keep their files."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from logship.postgres.postmaster import PID_FILE, remove_shared_memory
from tests.support.memory_room import holds_servers

OF_THE_RUN: Final = "TESTS_DIRECTORY_OF_THE_RUN"
"""The variable by which the workers of a run know `directory_of_the_run`."""
_ON_DISK = "TESTS_DIRECTORY_ON_DISK"
"""Another of the run, which is never in memory; it may be the same."""
_ALL_ON_DISK = "LOGSHIP_TESTS_ON_DISK"
"""Set by who wants nothing in memory: 1."""

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 6 << 30
"""What must be free for more to come; the servers of one test take at most some hundred MB."""
_PREFIX = "logship-"
_LOCK = "lock-of-the-run"
"""Whoever began a run holds it (flock) as long as the run lives, however it ends."""

_numbers = itertools.count()


@contextlib.contextmanager
def run_directories() -> Iterator[None]:
    """What all workers of a run share, and below which all of its directories are, as long as the
    block lasts.  Removes first what runs left that were killed."""
    disk = Path(tempfile.gettempdir())
    memory = _MEMORY if _may_use_memory() else disk
    for place in {_MEMORY, disk}:
        remove_left_over(place)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(_directory_of_a_run(memory))
        os.environ[OF_THE_RUN] = os.environ[_ON_DISK] = str(here)
        if memory != disk:
            os.environ[_ON_DISK] = str(stack.enter_context(_directory_of_a_run(disk)))
        yield


def open_directory(*, on_disk: bool = False) -> Path:
    """A new directory that every user can enter.  Its path is short, as unix sockets' must be.

    In memory, where there is room: making a cluster's thousand files takes a disk's file system
    longer than most tests do anything with them.  on_disk: never, as fsync is to do something, or
    as much comes there.  Whoever makes it removes it.
    """
    in_memory = not on_disk and _may_use_memory()
    home = Path(os.environ[OF_THE_RUN if in_memory else _ON_DISK])
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    return _make(home / f"{worker}.{next(_numbers)}")


def directory_of_the_run() -> Path:
    """What all workers of this run share."""
    return Path(os.environ[OF_THE_RUN])


def _may_use_memory() -> bool:
    return os.environ.get(_ALL_ON_DISK, "") in ("", "0") and holds_servers(_MEMORY, _ROOM_BYTES)


@contextlib.contextmanager
def _directory_of_a_run(place: Path) -> Iterator[Path]:
    made: Path | None = None
    while made is None:
        with contextlib.suppress(FileExistsError):
            made = _make(place / f"{_PREFIX}{secrets.token_hex(2)}")
    new = made / f"{_LOCK}.new"
    with new.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(made / _LOCK)  # nobody sees it free
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _make(path: Path) -> Path:
    path.mkdir()
    path.chmod(0o755)
    return path


def remove_left_over(place: Path) -> None:
    """Directories of runs of ours that nobody holds."""
    for path in place.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), path.open("r+") as lock:
            if os.fstat(lock.fileno()).st_uid != os.geteuid():
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A server that still runs ends by itself within a minute, as its files are gone.
            for pid_file in path.parent.rglob(PID_FILE):
                remove_shared_memory(pid_file.parent)
            shutil.rmtree(path.parent, ignore_errors=True)

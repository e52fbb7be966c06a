"""Where tests let servers keep their files."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

OF_THE_RUN: Final = "TESTS_DIRECTORY_OF_THE_RUN"
"""The variable by which the workers of a run know `directory_of_the_run`."""

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 6 << 30
"""What must be free for more to come; the servers of one test take at most some hundred MB."""


def open_directory(*, on_disk: bool = False) -> Path:
    """A new directory that every user can enter; the short path suits unix sockets.

    In memory, where there is room: making a cluster's thousand files takes a disk's file system
    longer than most tests do anything with them.  on_disk: never, as fsync is to do something.
    Whoever makes it removes it.
    """
    in_memory = not on_disk and _has_room()
    path = Path(tempfile.mkdtemp(prefix="logship-", dir=_MEMORY if in_memory else None))
    path.chmod(0o755)
    return path


def directory_of_the_run() -> Path:
    """What all workers of this run share; whoever began the run removes it."""
    return Path(os.environ[OF_THE_RUN])


def _has_room() -> bool:
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _ROOM_BYTES:
        return False
    # The file system may be larger than what there is to back it.
    return _available_memory_bytes() >= _ROOM_BYTES


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return 0

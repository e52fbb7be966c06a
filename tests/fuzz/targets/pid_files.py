"""postmaster.pid, which a server's crash or a full disk may have left in any state.

Input: the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

from logship.postgres.postmaster import (
    PID_FILE,
    Status,
    read_pid_file,
    running_postmaster,
    stale_locks,
)
from tests.fuzz.mutation import splice
from tests.fuzz.target import MutateBytes

_MEMORY = Path("/dev/shm")


def run(data: bytes) -> bool:
    with tempfile.TemporaryDirectory(
        prefix="logship-", dir=_MEMORY if _MEMORY.is_dir() else None
    ) as name:
        directory = Path(name)
        (directory / PID_FILE).write_bytes(data)
        found = read_pid_file(directory)
        assert running_postmaster(directory) is None  # no postgres runs in there
        assert set(stale_locks(directory)) <= {directory / PID_FILE}
        if found is None:
            return False
        assert 0 < found.pid < 1 << 32
        assert found.port is None or 0 <= found.port < 1 << 16
        assert isinstance(found.status, Status)
        return True


def seeds() -> Iterator[bytes]:
    everyones = 1
    for pid in (everyones, 4_194_300, -77):
        yield b"%d\n/data\n1714557600\n5432\n/run\nlocalhost\n  5432001   163840\nready   \n" % pid
    yield b"42\n/data\n1714557600\n5432\n\n*\n"
    yield b"42\n"


WORDS = (
    b"\n", b"0", b"-", b"1", b"9" * 30, b"9" * 5000, b"\xc2\xb2", b"\xd9\xa3", b"1_0", b"\0",
    b"standby ", b"/tmp", b"..", b"x" * 3000, b"\xe2\x80\xa8", b"\x85", b" ", b"+1",
)  # fmt: skip


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    return splice(data, WORDS, random)

"""The processes of a machine that is a directory: those that work in it, and how they end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from logship.errors import Code, LogshipError
from logship.postgres.postmaster import remove_shared_memory

KILLED_STATUS = 128 + signal.SIGKILL
_POLL_SECONDS = 0.02
_END_SECONDS = 20.0
_SHARED_MEMORY = re.compile(r"/dev/shm/PostgreSQL\.\d+")


class LocalProcess:
    """A program in a session of its own, whose output goes to `log_file`."""

    def __init__(self, process: subprocess.Popen[bytes], log_file: Path, from_bytes: int) -> None:
        self._process = process
        self._log_file = log_file
        self._from_bytes = from_bytes

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self, timeout_seconds: float = 30.0) -> int:
        if self.running:
            self._process.terminate()
        try:
            return _status(self._process.wait(timeout_seconds))
        except subprocess.TimeoutExpired:
            self.kill()
            return KILLED_STATUS

    def kill(self) -> None:
        if self.running:
            kill_until_gone(lambda: _descendants(self._process.pid))
        self._process.wait()

    def log(self) -> str:
        try:
            with self._log_file.open("rb") as file:
                file.seek(self._from_bytes)
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""


class LocalLine:
    """To an attendant; see `attendants.Line`.

    process: with pipes to its standard streams but stderr, which goes to `complaints`.
    """

    def __init__(self, process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        self._process = process
        self._complaints = complaints

    def send(self, data: bytes, silence_seconds: float) -> None:
        # The host itself tells how it ended.
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def receive(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> str:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what could not be sent
                if pipe is not None:
                    pipe.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._complaints.closed:
            return ""
        with self._complaints:
            self._complaints.seek(0)
            return self._complaints.read().decode("utf-8", "replace")


def kill_below(directory: Path) -> None:
    """SIGKILL all processes that work below `directory`, and what PostgreSQL leaves outside of
    its data directory when it is killed."""
    kill_until_gone(lambda: _working_below(directory))


def kill_until_gone(find: Callable[[], list[int]]) -> None:
    """SIGKILL what `find` returns until it finds nothing and none of it lives.

    Raises LogshipError(REHEARSAL_FAILED): something does not end.
    """
    deadline = time.monotonic() + _END_SECONDS
    segments: set[str] = set()
    data_directories: set[Path] = set()
    killed: set[int] = set()
    while (found := find()) or any(map(_lives, killed)):
        for pid in found:
            segments |= _segments_of(pid)
            data_directories |= _data_directory_of(pid)
        _send(found, signal.SIGSTOP)
        # Those that were stopped start no more; what they started before the stop is found now.
        if set(find()) <= set(found):
            _send(found, signal.SIGKILL)
            killed.update(found)
        if time.monotonic() > deadline:
            raise LogshipError(
                Code.REHEARSAL_FAILED,
                f"processes {sorted(killed.union(found))} of the rehearsal do not end",
                "end them by hand; one that waits for a disk ends when the disk answers",
            )
        time.sleep(_POLL_SECONDS)
    for path in segments:
        Path(path).unlink(missing_ok=True)
    for data_directory in data_directories:
        remove_shared_memory(data_directory)


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _status(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


def _working_below(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended, or is another's
            if (entry / "cwd").readlink().is_relative_to(directory):
                found.append(int(entry.name))
    return found


def _descendants(pid: int) -> list[int]:
    """The process and all that it started, while it lives."""
    found, look = [], [pid]
    while look:
        each = look.pop()
        if not _lives(each):
            continue
        found.append(each)
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{each}/task/{each}/children").read_text(encoding="ascii")
            look += map(int, text.split())
    return found


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _segments_of(pid: int) -> set[str]:
    with contextlib.suppress(OSError):
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
        return set(_SHARED_MEMORY.findall(maps))
    return set()


def _data_directory_of(pid: int) -> set[Path]:
    """Of a server's process; an empty set for any other."""
    with contextlib.suppress(OSError):
        here = Path(f"/proc/{pid}/cwd").readlink()
        if (here / "PG_VERSION").is_file():
            return {here}
    return set()

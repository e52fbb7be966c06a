"""Starts Python programs as forks of a process that has imported them already.

Importing takes a program of ours two thirds of its start, and the tests start a thousand.  What
is started is a process like any other: a session of its own, its arguments, its environment, its
directory, and the interpreter's usual end.  Not its own are: its command line in /proc; the seed of
its hashes, one for all of a starter; what the interpreter takes from PYTHON* variables and the
process gets at its start (limits, umask, signals), as the worker had them when it started its first
program.  What a program binds at its import it has bound before it is told anything: who replaces
something beneath it, as `tests.torture.clocks` does, can't have it so.  That the programs start
from nothing as well is tested wherever one is run by its name.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

LOADED: Mapping[str, tuple[str, ...]] = {
    "applier": ("applier.commands.run", "applier.service", "logship.logs"),
    "shipper": ("shipper.commands.run", "shipper.agent", "logship.logs"),
}
"""What the starter of a program has imported: `run` of it."""


class Forked:
    """A started program, as `subprocess.Popen` has it."""

    def __init__(self, starter: _Starter, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._starter = starter

    def poll(self) -> int | None:
        if self.returncode is None:
            self._starter.learn()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.005)
        return status


_starters: dict[str, _Starter] = {}


def start_forked(program: str, arguments: Sequence[str | Path], log: IO[bytes]) -> Forked:
    """As `python ARGUMENTS…`, which run `program` in the end; what it says goes to `log`."""
    starter = _starters.get(program)
    if starter is None or not starter.lives:
        starter = _starters[program] = _Starter(program)
    return starter.start([str(each) for each in arguments], log)


class _Starter:
    """The process that forks, seen from the one that asks for it.

    It ends with that one, or as soon as a question has not had its answer (a test's time was over
    in between, or it was killed): what came next would be taken for it.  All that it started and
    that has not ended is killed then.
    """

    def __init__(self, program: str) -> None:
        self._socket, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._running: dict[int, Forked] = {}
        self._closed = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, Path(__file__), program, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # buffered as a log is
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._answers = self._socket.makefile("r", encoding="ascii")
        atexit.register(self._close)

    @property
    def lives(self) -> bool:
        with self._lock:
            if not self._closed and self._process.poll() is not None:
                self._close()
            return not self._closed

    def start(self, arguments: list[str], log: IO[bytes]) -> Forked:
        request = {
            "arguments": arguments,
            "environment": dict(os.environ),
            "directory": str(Path.cwd()),
        }
        content = json.dumps(request).encode()
        with self._lock, self._closing_on_error():
            socket.send_fds(self._socket, [len(content).to_bytes(4, "big")], [log.fileno()])
            self._socket.sendall(content)
            pid = int(self._answer())
            made = self._running[pid] = Forked(self, pid)
        return made

    def learn(self) -> None:
        """Tell those that ended how they did."""
        with self._lock:
            if self._closed:
                return
            with self._closing_on_error():
                self._socket.sendall((0).to_bytes(4, "big"))
                # Until it is asked, the number of one that ended is no other's.
                for pid, status in json.loads(self._answer()).items():
                    self._running.pop(int(pid)).returncode = status

    def _answer(self) -> str:
        if line := self._answers.readline():
            return line
        raise RuntimeError("the process that forks has ended")

    @contextlib.contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):  # it is dead
            self._socket.shutdown(socket.SHUT_RDWR)  # whoever else has it, by a fork
        self._socket.close()
        self._answers.close()
        if self._process.wait() != 0:
            # It could not do it, and without it nobody else knows of them.
            for pid in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for each in self._running.values():
            each.returncode = -signal.SIGKILL


# --- the process that forks -------------------------------------------------------------------


def _main(program: str, handle: int) -> None:
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    exec(import_module("tests.support.as_installed").AS_INSTALLED)
    for name in LOADED[program]:
        import_module(name)
    gc.freeze()
    asked = socket.socket(fileno=handle)
    running: set[int] = set()
    with contextlib.suppress(ConnectionError):  # nobody waits for the answer any more
        _answer(asked, running)
    for pid in running.difference(_ended()):
        os.kill(pid, signal.SIGKILL)


def _answer(asked: socket.socket, running: set[int]) -> None:
    """All that is asked, until nobody is there.  running: what was started and has not been told
    as ended."""
    while head := _receive(asked):
        size, log = head
        if not size:
            ended = _ended()
            running.difference_update(ended)
            asked.sendall(json.dumps(ended).encode() + b"\n")
            continue
        content = _exactly(asked, size)
        if log is None or len(content) < size:
            break
        if (pid := os.fork()) == 0:
            asked.close()
            _become(json.loads(content), log)
        running.add(pid)
        os.close(log)
        asked.sendall(b"%d\n" % pid)


def _receive(asked: socket.socket) -> tuple[int, int | None] | None:
    """(size of what follows, descriptor); None when nobody is there any more."""
    handles = array.array("i")
    content, ancillary, _, _ = asked.recvmsg(4, socket.CMSG_LEN(handles.itemsize))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            handles.frombytes(data[: handles.itemsize])
    if not content:
        return None
    content += _exactly(asked, 4 - len(content))
    return int.from_bytes(content, "big"), handles[0] if handles else None


def _exactly(asked: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size and (more := asked.recv(size - len(content))):
        content += more
    return content


def _ended() -> dict[int, int]:
    """The statuses of those that ended since the last time."""
    found = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            found[pid] = os.waitstatus_to_exitcode(status)
    return found


def _become(request: dict[str, Any], log: int) -> NoReturn:
    """Go on as the program that is asked for, and end as the interpreter does."""
    os.setsid()
    for target in (1, 2):
        os.dup2(log, target)
    os.close(log)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    random.seed()
    first, *rest = request["arguments"]
    if first == "-c":
        code, *rest = rest
        sys.argv = ["-c", *rest]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")
    raise SystemExit(0)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))

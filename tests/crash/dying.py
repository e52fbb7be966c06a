"""A program that dies before its N-th step: `dying.py LOG N WHEN PROGRAM ARGUMENTS…`.

N = 0 never dies; instead of a number, `before:PATTERN` is the first step that fits the regular
expression, `after:PATTERN` the step that follows it, and `kind:KIND` the first step of a kind
(`kind_of`): two runs of one thing have different numbers of steps, and the same kinds.  WHEN is
`start` or `signal`: from when on steps are counted (`signal`: from SIGUSR1 on).  Each counted
step is a line of LOG.  This is the program's own code, its functions for durable operations
wrapped from outside: the product has no switch for it.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support.as_installed import AS_INSTALLED

# Asked over and over while waiting; they change nothing.
_QUESTION = re.compile(r"select (?!pg_promote|pg_logical_emit_message|pg_reload|pg_wal_replay)")

EXIT_STATUS = 137
"""As a shell tells of SIGKILL."""


def kind_of(step: str) -> str:
    """A step without what differs between two runs of the same, and between files of a seed."""
    step = re.sub(r"(/data[^/]*)/.*/.*", r"\1/…", step)
    return re.sub(r"[0-9A-Fa-f]{8,}|[0-9A-F]{4,}|\d+", "#", step)


class Steps:
    """Counts, writes down, and ends the process before step `last`."""

    def __init__(self, log: str, last: str, *, counting: bool) -> None:
        self.counting = counting
        self._last = int(last) if last.isdigit() else 0
        self._before = last.removeprefix("before:") if last.startswith("before:") else ""
        self._after = last.removeprefix("after:") if last.startswith("after:") else ""
        self._kind = last.removeprefix("kind:") if last.startswith("kind:") else ""
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        self._count = 0
        self._lock = threading.Lock()

    def take(self, name: str, about: object) -> None:
        text = " ".join(str(about).split())
        if not self.counting or _QUESTION.match(text):
            return
        with self._lock:
            self._count += 1
            os.write(self._log, f"{self._count} {name} {text}\n".encode())
            step = f"{name} {text}"
            if self._is_last(step):
                os._exit(EXIT_STATUS)
            if self._after and re.search(self._after, step):
                self._last, self._after = self._count + 1, ""

    def _is_last(self, step: str) -> bool:
        return bool(
            self._count == self._last
            or (self._before and re.search(self._before, step))
            or (self._kind and kind_of(step) == self._kind)
        )

    def wrap(self, owner: Any, name: str, about: Callable[..., object]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            self.take(name, about(*args, **kwargs))
            return original(*args, **kwargs)

        setattr(owner, name, stepped)


def _of_handle(handle: int, *_: Any, **__: Any) -> str:
    return str(Path(f"/proc/self/fd/{handle}").readlink())


def _of_path(path: Any, *_: Any, **__: Any) -> object:
    return path


def _of_command(_self: Any, command: Any, *_: Any, **__: Any) -> object:
    return " ".join(map(str, command[:2]))


def _of_statement(_self: Any, query: Any, *_: Any, **__: Any) -> object:
    return query


def main() -> int:
    log, last, when, program, *arguments = sys.argv[1:]
    steps = Steps(log, last, counting=when == "start")
    signal.signal(signal.SIGUSR1, lambda *_: setattr(steps, "counting", True))
    from psycopg import AsyncConnection

    for name in ("fsync", "fdatasync", "ftruncate"):
        steps.wrap(os, name, _of_handle)
    for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "chown"):
        steps.wrap(os, name, _of_path)
    steps.wrap(subprocess.Popen, "__init__", _of_command)
    steps.wrap(signal, "pidfd_send_signal", lambda _handle, number, *_: number)
    steps.wrap(AsyncConnection, "execute", _of_statement)
    sys.argv[1:] = arguments
    exec(AS_INSTALLED)
    status: int = import_module(f"{program}.commands").main()
    return status


if __name__ == "__main__":
    raise SystemExit(main())

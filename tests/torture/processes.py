"""Processes of a round: whole PostgreSQL servers frozen, and ours kept up as systemd would."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from logship.postgres.postmaster import running_postmaster
from tests.support.pair import Process
from tests.support.waiting import wait_until
from tests.torture import clocks

GIVES_UP = (2, 3)
"""Exit statuses that ops/*.service do not restart after."""


class SteppedProcess(Process):
    """`shipper run` or `applier run` with a wall clock that `step` moves."""

    _may_fork = False
    """Where the clock is an argument's default, the real one is bound at the import."""

    def __init__(self, program: str, settings: Path, log: Path) -> None:
        super().__init__(program, settings, log)
        self._clock = log.with_suffix(".clock")
        clocks.write_offset(self._clock, 0.0)

    def step(self, seconds: float) -> None:
        clocks.write_offset(self._clock, seconds)

    def start(self, *options: str) -> None:
        assert not self.is_running
        script = Path(clocks.__file__)
        self.start_python(
            script, self._clock, self.program, "run", "--config", self.settings, *options
        )


def freeze(postmaster: int) -> list[int]:
    """SIGSTOP a server with all its processes; returns them for `thaw`."""
    stopped: list[int] = []
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(postmaster, signal.SIGSTOP)
        stopped.append(postmaster)
        for child in _children(postmaster):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGSTOP)
                stopped.append(child)
    return stopped


def thaw(processes: list[int]) -> None:
    for process in reversed(processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def kill_server(data_directory: Path) -> bool:
    """SIGKILL the server of `data_directory` with all its processes; False if none runs."""
    found = running_postmaster(data_directory)
    if found is None:
        return False
    processes = freeze(found.pid)
    for process in reversed(processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    wait_until(lambda: not any(map(_lives_in, processes)), 30, "the end of a killed server")
    return True


def _children(process: int) -> list[int]:
    return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def _lives_in(process: int) -> bool:
    try:
        Path(f"/proc/{process}/cwd").readlink()
    except OSError:
        return False  # gone, or a zombie that holds nothing any more
    return True

"""When to start, stop and restart a standby: a state machine without I/O.

Events in, commands out.  The shell (`server.Standby`) performs each command and answers with
an event; it calls again with `Tick` when `deadline` has come.  `now` is in monotonic seconds.

    stopped ──WantRunning──► starting ──Started──► running
                               ▲   │Exited            │Exited (crashed)
                        Tick   │   ▼                  ▼
                             waiting ◄────────────────┘        waiting: for the backoff
    running ──WantStopped | ConfigurationChanged──► stopping ──Exited──► stopped | starting
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0
STEADY_SECONDS = 60.0
"""A server that ran this long gets the first backoff again when it crashes."""


class LifeState(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    WAITING = "waiting"
    """It failed and will be started again at `deadline`."""


class WantRunning(NamedTuple):
    """Keep the server up from now on."""


class WantStopped(NamedTuple):
    """Take the server down and leave it down."""


class Started(NamedTuple):
    """The server runs: a `Start` worked, or one that already ran was adopted."""

    pid: int


class Exited(NamedTuple):
    """The server is not running: a `Start` failed, it crashed, or a `Stop` is done.

    pid: which one was seen to end; old news about another than the current one is ignored.
    None where a command is answered.
    """

    reason: str
    pid: int | None = None


class ConfigurationChanged(NamedTuple):
    """The server must be started anew to go on, with what is written at its next start.

    A crash for want of it is no reason to wait.
    """


class Tick(NamedTuple):
    """Time passed."""


Event = WantRunning | WantStopped | Started | Exited | ConfigurationChanged | Tick


class Start(NamedTuple):
    """Adopt or start the server; answer with `Started` or `Exited`."""


class Stop(NamedTuple):
    """Stop the server; answer with `Exited`."""


Command = Start | Stop


class StandbyLife:
    """One standby's life.

    Fields to read: state, pid (None unless running), since (when the state was entered),
    restarts (starts after a failure, in all), last_failure ("" if none), deadline (when `Tick`
    is due, None if never).
    """

    def __init__(self, now: float) -> None:
        self.state = LifeState.STOPPED
        self.pid: int | None = None
        self.since = now
        self.restarts = 0
        self.last_failure = ""
        self.deadline: float | None = None
        self._wanted = False
        self._start_again = False
        self._backoff_seconds = 0.0

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event in.  Perform what is returned, in order."""
        match event:
            case WantRunning():
                return self._want_running(now)
            case WantStopped():
                return self._want_stopped(now)
            case Started(pid):
                return self._started(pid, now)
            case Exited(reason, pid):
                return [] if pid not in (None, self.pid) else self._exited(reason, now)
            case ConfigurationChanged():
                return self._configuration_changed(now)
            case Tick():
                return self._tick(now)

    def _want_running(self, now: float) -> list[Command]:
        self._wanted = True
        # Asked for by hand while it waits: now, and the patience of the backoff is kept.
        if self.state in (LifeState.STOPPED, LifeState.WAITING):
            return self._start(now)
        return []

    def _want_stopped(self, now: float) -> list[Command]:
        self._wanted = False
        self._start_again = False
        if self.state is LifeState.WAITING:
            self._enter(LifeState.STOPPED, now)
            return []
        # Also when it counts as stopped: an earlier applier may have left it running.
        if self.state in (LifeState.RUNNING, LifeState.STOPPED):
            return self._stop(now)
        return []

    def _started(self, pid: int, now: float) -> list[Command]:
        self.pid = pid
        self._enter(LifeState.RUNNING, now)
        if not self._wanted or self._start_again:
            return self._stop(now)
        return []

    def _exited(self, reason: str, now: float) -> list[Command]:
        state, ran_seconds = self.state, now - self.since
        self.pid = None
        if not self._wanted:
            self._enter(LifeState.STOPPED, now)
            return []
        if state is LifeState.STOPPING or self._start_again:
            return self._start(now)
        if state is LifeState.RUNNING and ran_seconds >= STEADY_SECONDS:
            self._backoff_seconds = 0.0
        self._backoff_seconds = min(
            max(self._backoff_seconds * 2, FIRST_BACKOFF_SECONDS), MAX_BACKOFF_SECONDS
        )
        self.last_failure = reason
        self._enter(LifeState.WAITING, now)
        self.deadline = now + self._backoff_seconds
        return []

    def _configuration_changed(self, now: float) -> list[Command]:
        if self.state is LifeState.RUNNING:
            self._start_again = True
            return self._stop(now)
        if self.state is LifeState.STARTING:
            self._start_again = True
        if self.state is LifeState.WAITING:
            return self._start(now)
        return []

    def _tick(self, now: float) -> list[Command]:
        if self.state is LifeState.WAITING and self.deadline is not None and now >= self.deadline:
            self.restarts += 1
            return self._start(now)
        return []

    def _start(self, now: float) -> list[Command]:
        self._start_again = False
        self._enter(LifeState.STARTING, now)
        return [Start()]

    def _stop(self, now: float) -> list[Command]:
        self._enter(LifeState.STOPPING, now)
        return [Stop()]

    def _enter(self, state: LifeState, now: float) -> None:
        self.state = state
        self.since = now
        self.deadline = None

"""An asyncio event loop whose clock is a number and whose every choice is seeded.

The processes of a simulation share one loop.  Which of them a callback belongs to is in its
context (`PROCESS`), which asyncio passes on to everything that the callback starts: so a
process can be killed between any two callbacks, as SIGKILL would, without a `finally` of it
being run, or be frozen, as SIGSTOP would.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, NoReturn

_MAX_TURNS = 2_000_000


class Process:
    """One start of one program.  A restart makes another."""

    def __init__(self, name: str, machine: Any = None) -> None:
        self.name = name
        self.machine = machine
        self.alive = True
        self.frozen_until = 0.0
        self.context = copy_context()
        self.context.run(PROCESS.set, self)
        self.main: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        return f"Process({self.name})"


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)


class Stuck(Exception):
    """The simulation ran on without time passing, or for far too long."""


class _Numbered:
    """Hashes by order of creation: asyncio keeps tasks and futures in sets, whose order must
    be the same in every run."""

    _number: int

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimFuture(_Numbered, asyncio.Future):  # type: ignore[type-arg]
    def __init__(self, *, loop: SimLoop) -> None:
        self._number = next(loop.numbers)
        super().__init__(loop=loop)


class SimTask(_Numbered, asyncio.Task):  # type: ignore[type-arg]
    def __init__(self, coro: Any, *, loop: SimLoop, name: Any = None, context: Any = None) -> None:
        self._number = next(loop.numbers)
        super().__init__(coro, loop=loop, name=name, context=context)


class SimLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in the order of their times; `work_seconds()` is how long a thread takes."""

    def __init__(self, random: Random, work_seconds: Callable[[], float]) -> None:
        self.now = 0.0
        self.turns = 0
        self.numbers = itertools.count()
        self.errors: list[BaseException] = []
        self._random = random
        self._work_seconds = work_seconds
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.Handle]] = []
        self._order = itertools.count()
        self._free_at: dict[int, float] = {}
        self._executors: list[Any] = []  # kept, so that no address is used twice
        self._tasks: list[SimTask] = []

    # --- what asyncio asks of a loop --------------------------------------------------------

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled handles are skipped when their time comes."""

    def create_future(self) -> SimFuture:
        return SimFuture(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: Any = None, context: Any = None
    ) -> SimTask:
        task = SimTask(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> SimFuture:  # type: ignore[override]
        """`func` takes effect after a while and is reported after another; one executor's work
        is done in order, as ours have one thread each."""
        future = self.create_future()
        start = self.now
        if executor is not None:
            if id(executor) not in self._free_at:
                self._executors.append(executor)
            start = max(start, self._free_at.get(id(executor), 0.0))
        begin = start + self._work_seconds() * self._random.random()
        done = begin + self._work_seconds() * self._random.random()
        if executor is not None:
            self._free_at[id(executor)] = done
        self.call_at(begin, self._work, future, func, args, done)
        return future

    def _work(self, future: SimFuture, func: Any, args: Any, done: float) -> None:
        if future.cancelled():
            return
        try:
            result = func(*args)
        except Exception as error:
            self.call_at(done, _settle, future, None, error)
        else:
            self.call_at(done, _settle, future, result, None)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # Futures of the dead are never looked at; that is not a bug.
        if "never retrieved" not in context["message"] and isinstance(error, Exception):
            self.errors.append(error)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    # --- running ----------------------------------------------------------------------------

    def spawn(self, process: Process, main: Coroutine[Any, Any, Any]) -> None:
        """Start `process` with `main`."""
        process.main = self.create_task(main, context=process.context)

    def at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> None:
        self.call_at(max(when, self.now), callback, *args, context=context or _NOBODY)

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Run to the time `until`, or until `done`, which is asked when time moves."""
        asyncio._set_running_loop(self)
        try:
            while True:
                while self._ready:
                    self._turn(self._ready.popleft())
                if done() or not self._timers or self._timers[0][0] > until:
                    self.now = max(self.now, until if not done() else self.now)
                    return
                self.now = max(self.now, self._timers[0][0])
                while self._timers and self._timers[0][0] <= self.now:
                    self._ready.append(heapq.heappop(self._timers)[2])
        finally:
            asyncio._set_running_loop(None)

    def _turn(self, handle: asyncio.Handle) -> None:
        if handle._cancelled:
            return
        process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
        if process is not None:
            if not process.alive:
                return
            if process.frozen_until > self.now:
                entry = (process.frozen_until, next(self._order), handle)
                heapq.heappush(self._timers, entry)
                return
        self.turns += 1
        if self.turns > _MAX_TURNS:
            raise Stuck(f"{_MAX_TURNS} turns of the loop by {self.now:.1f} s")
        handle._run()
        if self.errors:
            raise self.errors[0]

    def close(self) -> None:
        """Let go of what is unfinished, without a word: its processes are dead by now."""
        asyncio._set_running_loop(self)
        try:
            for task in self._tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    with contextlib.suppress(BaseException):
                        task.get_coro().close()
            self._tasks.clear()
            self._timers.clear()
            self._ready.clear()
        finally:
            asyncio._set_running_loop(None)


def _settle(future: SimFuture, result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _nobody() -> Context:
    context = copy_context()
    context.run(PROCESS.set, None)
    return context


_NOBODY = _nobody()


def not_simulated(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("the simulation met I/O that it does not simulate")

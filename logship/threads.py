"""Work in threads: some that must not be left behind, some that a process ends without, and
threads that must not stay."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

IDLE_SECONDS: Final = 10.0
"""After so long without work a thread ends: of hundreds of stores nearly all are idle."""


async def run_to_the_end(threads: Executor | None, work: Callable[[], _T]) -> _T:
    """Run `work` in one of `threads` (None: the loop's own).  A cancelled caller still waits for
    its end, so that whoever comes next does not work beside it; then it is cancelled, and what
    the work gave or raised is dropped."""
    future = asyncio.get_running_loop().run_in_executor(threads, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # looked at: asyncio does not call it forgotten
        raise


class IdleThread:
    """Does one piece of work after the other, in a thread that is there while it is needed.

    Of what `submit` is given nothing may raise.  All methods may be called from any thread.
    """

    def __init__(self, name: str, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._name = name
        self._idle_seconds = idle_seconds
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        """Held while it is decided whether there is a thread: what is put under it is done."""
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Raises RuntimeError where no thread can be started: `work` is dropped then."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
            self._queue.put(work)

    def close(self) -> None:
        """Wait until what was submitted has run."""
        with self._lock:
            thread = self._thread
            self._queue.put(None)
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            work = self._next()
            if work is not None:
                work()
                del work  # not to live on until there is more to do
                continue
            with self._lock:
                if self._queue.empty():
                    self._thread = None
                    return

    def _next(self) -> Callable[[], None] | None:
        try:
            return self._queue.get(timeout=self._idle_seconds)
        except Empty:
            return None


class IdleExecutor(Executor):
    """An `IdleThread` for `run_in_executor`."""

    def __init__(self, name: str) -> None:
        self._thread = IdleThread(name)
        self._is_shut_down = False

    def submit(self, work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        if self._is_shut_down:
            raise RuntimeError("submitted after the shutdown")
        future: Future[_T] = Future()
        self._thread.submit(partial(_settle, future, partial(work, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more, and with `wait` return when all is done; nothing is cancelled."""
        self._is_shut_down = True
        if wait:
            self._thread.close()


class DaemonThreads(Executor):
    """At most `most` threads at a time; work is begun in order, a thread ends when there is none.

    A thread can't be stopped; so the process ends without waiting for these, wherever they are.
    For those who ask a bucket, as a request may hang until its own timeout: what was not answered
    was not acknowledged, and the next process finds it in the bucket, or ships it again.  Also for
    what takes long, and is begun again by the next process.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._running = 0
        self._queue: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._lock = threading.Lock()

    def submit(self, work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Raises RuntimeError where none runs and none can be started: `work` is dropped."""
        future: Future[_T] = Future()
        with self._lock:  # the new thread waits for it, and then finds its work
            if self._running < self._most:
                self._start_another()
            self._queue.append((future, partial(work, *args, **kwargs)))
        return future

    def _start_another(self) -> None:
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError:
            if not self._running:
                raise
        else:
            self._running += 1

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._running -= 1
                    return
                future, work = self._queue.popleft()
            _settle(future, work)
            # A body must not live on until there is more to do.
            del future, work


def _settle(future: Future[_T], work: Callable[[], _T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)

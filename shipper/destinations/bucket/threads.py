"""Threads that ask a bucket.  A request may hang until its own timeout, and a thread can't be
stopped; so the process ends without waiting for them.  What was not answered was not
acknowledged: the next process finds it in the bucket, or ships it again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class RequestThreads(Executor):
    """At most `most` at a time, begun in order; a thread ends when there is no work."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running = 0
        self._queue: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._lock = threading.Lock()

    def submit(self, work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()
        with self._lock:
            self._queue.append((future, partial(work, *args, **kwargs)))
            if self._running == self._most:
                return future
            self._running += 1
        threading.Thread(target=self._work, name="bucket", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._running -= 1
                    return
                future, work = self._queue.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            # A body must not live on until there is more to do.
            del future, work

"""What a change costs while it is made: how long nothing is committed, how much WAL only the
primary has, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from logship.errors import LogshipError
from logship.rehearsal.outcome import Outage
from logship.rehearsal.site.recovery import Progress
from logship.rehearsal.site.stage import Stage

POLL_SECONDS = 0.5


class Exposure:
    """The most WAL that only the primary had.  Pure.

    A side that does not answer is taken to be where it was last seen: a primary that is down
    writes nothing, a recovery server that is down stores nothing.  What it stored after it was
    last seen and before it went down counts too, so it is an upper estimate while a side is down.
    """

    def __init__(self) -> None:
        self._flushed: int | None = None
        self._durable: int | None = None
        self.most_bytes: int | None = None

    def see(self, flushed: int | None, durable: int | None) -> None:
        """LSNs, or None of a side that does not answer."""
        self._flushed = self._flushed if flushed is None else flushed
        self._durable = self._durable if durable is None else durable
        if self._flushed is not None and self._durable is not None:
            gap = max(0, self._flushed - self._durable)
            self.most_bytes = max(gap, self.most_bytes or 0)


class Watch:
    """Asks both sides again and again, from `start` to `stop`, from a thread of its own.

    `start` asks once itself: a side that the step takes down at once, and that is up again only as
    it ends, would otherwise have answered nobody.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._exposure = Exposure()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="outage", daemon=True)

    def start(self) -> None:
        self._look()
        self._thread.start()

    def stop(self) -> int | None:
        """The most bytes that only the primary had; None if a side never answered."""
        self._end.set()
        self._thread.join()
        return self._exposure.most_bytes

    def _watch(self) -> None:
        while not self._end.wait(POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        self._exposure.see(
            _asked(self._stage.primary.flush_lsn), _asked(self._stage.recovery.durable_lsn)
        )


class Measure:
    """Measures what is done inside `with`, while somebody commits all the time."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._watch = Watch(stage)
        self._began = 0.0
        self._seconds = 0.0
        self._progress = Progress(None, None)
        self._writes_seconds: float | None = None
        self._exposed_bytes: int | None = None

    def __enter__(self) -> Measure:
        self._stage.start_writes()
        self._watch.start()
        self._began = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exposed_bytes = self._watch.stop()
        try:
            self._writes_seconds = self._stage.end_writes()
        except LogshipError as failure:
            self._writes_seconds = None
            if error is None:  # it is of more interest, and is told
                self._stage.say(f"  {failure}")

    def wait_protected(self) -> None:
        """Once the change is made.  Raises LogshipError: the primary does not answer."""
        self._seconds = time.monotonic() - self._began - self._stage.looked_seconds
        self._progress = self._stage.wait_protected()

    def outage(self, *, is_new_cluster: bool) -> Outage:
        """After the `with`.  is_new_cluster: positions of two clusters can't be compared."""
        durable, replayed = self._progress.durable_seconds, self._progress.replayed_seconds
        return Outage(
            writes_seconds=self._writes_seconds,
            protection_seconds=None if durable is None else self._seconds + durable,
            standby_seconds=None if replayed is None else self._seconds + replayed,
            exposed_bytes=None if is_new_cluster else self._exposed_bytes,
        )


def _asked(ask: Callable[[], int | None]) -> int | None:
    try:
        return ask()
    except (LogshipError, LookupError, ValueError):  # it is going down, or answers half
        return None

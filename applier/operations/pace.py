"""How fast a seed arrives, and when it will be here.  Pure; `now` is monotonic seconds."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

WINDOW_SECONDS = 20.0
"""Long enough that a pause of the disk does not show, short enough that a slower road does."""

SAMPLE_SECONDS = 0.5
"""How often at most the amount is remembered."""


class _Sample(NamedTuple):
    at: float
    total_bytes: int


class Pace:
    """Of one seed, over the last `WINDOW_SECONDS`."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self._total_bytes = 0

    def arrived(self, total_bytes: int, now: float) -> None:
        """So much has arrived since the seed began."""
        self._total_bytes = total_bytes
        if self._samples and now - self._samples[-1].at < SAMPLE_SECONDS:
            return
        self._samples.append(_Sample(now, total_bytes))
        # The newest that is older than the window stays: it is what the rate is measured from.
        while len(self._samples) > 1 and self._samples[1].at <= now - WINDOW_SECONDS:
            self._samples.popleft()

    def bytes_per_second(self, now: float) -> float | None:
        """None before it can be said.  Falls to 0 while nothing comes."""
        if not self._samples or now - self._samples[0].at < SAMPLE_SECONDS:
            return None
        recent = [each for each in self._samples if each.at > now - WINDOW_SECONDS]
        if not recent:
            return 0.0
        older = len(self._samples) - len(recent)
        first = self._samples[max(0, older - 1)]
        return (self._total_bytes - first.total_bytes) / (now - first.at)

    def seconds_left(self, estimated_bytes: int, now: float) -> float | None:
        """None if the end can't be foreseen; an estimate, as the cluster goes on growing."""
        rate = self.bytes_per_second(now)
        left_bytes = estimated_bytes - self._total_bytes
        if not rate or estimated_bytes <= 0 or left_bytes < 0:
            return None
        return left_bytes / rate

"""Percentiles of samples and ratios of repetitions.  Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """One result over its repetitions."""

    median: float
    least: float
    most: float
    repetitions: int


def percentile(samples: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest sample that `percent` % of all do not exceed.

    Never an average of two samples, so a p99 of 20 is their maximum.  Raises ValueError
    without samples or outside 0 < percent <= 100.
    """
    if not samples:
        raise ValueError("no samples")
    if not 0 < percent <= 100:
        raise ValueError(f"no percentile: {percent}")
    rank = math.ceil(len(samples) * percent / 100)
    return sorted(samples)[rank - 1]


def summarise(values: Sequence[float]) -> Figure:
    """Median, least and most.  Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    return Figure(statistics.median(values), min(values), max(values), len(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours by theirs, one for each repetition: both must come from the same ones."""
    return [our / their for our, their in zip(ours, theirs, strict=True)]

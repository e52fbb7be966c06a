"""Many faults in one text."""

from __future__ import annotations

from collections.abc import Sequence

_MOST_NAMED = 5


def listed(faults: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(faults) - _MOST_NAMED
    return "; ".join([*faults[:_MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])

"""What a rule of the version check is given, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from applier.compat.advisories import Advisory
from applier.compat.profiles import StandbyProfile
from applier.compat.verdict import Outcome
from logship.identity import Incarnation, Profile

PASS, WARN, BLOCK = Outcome.PASS, Outcome.WARN, Outcome.BLOCK

_SHOWN = 5


class Case(NamedTuple):
    """Everything that a rule may look at."""

    primary: Profile
    standby: StandbyProfile
    expected: Incarnation | None
    advisories: tuple[Advisory, ...]
    lacked: tuple[str, ...] = ()
    """What the rule last saw that the standby lacks (`Answer.lacking`)."""


class Answer(NamedTuple):
    """primary, standby: the values compared, as text; "" where that side has none."""

    outcome: Outcome
    primary: str
    standby: str
    remedy: str = ""
    why: str = ""
    """Instead of the rule's own, where the reason depends on what was found."""
    lacking: tuple[str, ...] = ()
    """What it blocks for, if one side may tell less the next time.  The rule finds it in
    `Case.lacked` then, and must not let pass what neither side says is over."""


class Rule(NamedTuple):
    """`compare` has no I/O and never raises, whatever a shipper sent."""

    name: str
    compare: Callable[[Case], Answer]
    why: str
    overridable: bool = False


def equal(primary: object, standby: object, remedy: str) -> Answer:
    """Blocks when the two differ."""
    if primary == standby:
        return Answer(PASS, str(primary), str(standby))
    return Answer(BLOCK, str(primary), str(standby), remedy)


def version(version_num: int) -> str:
    """170009 as 17.9."""
    return f"{version_num // 10000}.{version_num % 10000}"


def listed(values: Iterable[str]) -> str:
    """The values, sorted and each once; the first few where there are many."""
    unique = sorted(set(values))
    more = len(unique) - _SHOWN
    return ", ".join(unique[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

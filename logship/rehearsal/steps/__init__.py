"""The kinds of change that a rehearsal makes, one module each.

    image       another image: a minor of PostgreSQL, the operating system, packages
    parameters  settings of the server on one side
    primary     what is changed on the primary alone: statements, data checksums
    major       pg_upgrade, a new incarnation, a new seed, the cut-over
    versions    shipper or applier of another Logship

Each is a `Change`: it says what the version check thinks of it before, and makes it.  Beside them
`outage` sees what a change costs while it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from logship.rehearsal.outcome import Observation, Verdict
from logship.rehearsal.site.stage import Stage


def _nothing() -> tuple[Observation, ...]:
    return ()


def _no_more() -> None: ...


class Made(NamedTuple):
    """How a change went.

    refused: what a command said that would not take it, "" if all did: then nothing was changed.
    look: looks at what only this kind of change lets see, beside the proofs of every step; called
    once, when what the step cost is known.  Raises LogshipError.
    drop: removes what `look` would have looked at; called in its stead where that can't be known.
    is_new_cluster: its WAL positions have nothing to do with those of before.
    details: of interest in the JSON document.
    """

    refused: str = ""
    look: Callable[[], tuple[Observation, ...]] = _nothing
    drop: Callable[[], None] = _no_more
    is_new_cluster: bool = False
    details: Mapping[str, Any] = {}


class Change(Protocol):
    """All of it blocks."""

    def foresee(self, stage: Stage) -> Verdict:
        """What the version check says of it, asked on copies.  The stage is as it was, and runs.
        Raises LogshipError: it can't be made here."""

    def make(self, stage: Stage) -> Made:
        """Make it.  The stage runs before and afterwards; whether WAL flows is not waited for.
        Raises LogshipError: it failed midway, and the stage is as that left it."""

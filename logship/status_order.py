"""Which instance an operator must look at first.  Pure; reads status documents leniently."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from logship.status_words import Document, get

BEHIND_SECONDS = 10.0
"""A transfer gap that is older is no work in progress any more."""

REPLAY_BEHIND_SECONDS = 60.0
"""The same of the apply gap, which nothing is lost by."""


class Concern(IntEnum):
    """What is the worst of an instance; the smaller, the sooner it wants a person."""

    STUCK = 0
    """It does not go on by itself: a gap, blocked, or its standby does not stay up."""
    PROMOTING = 1
    ALARMED = 2
    CUT_OFF = 3
    """No WAL comes from its primary."""
    UNPROTECTED = 4
    """Nothing of it can be promoted yet, or a seed replaces what could."""
    EXPOSED = 5
    """Less is protected than was asked for, or the transfer gap does not close."""
    BEHIND = 6
    """A promotion would have to replay for long."""
    WARNED = 7
    """The version check warns."""
    WELL = 8
    PROMOTED = 9
    """It is production, and nothing is to be done here."""

    @property
    def needs_a_person(self) -> bool:
        return self < Concern.WARNED


def concern_of(document: Document) -> Concern:
    """The worst of what the document says; what is not known is not well."""
    phase = get(document, "phase")
    filling = bool(get(document, "gap", "filling"))
    if phase == "blocked" or (phase == "gap" and not filling) or _is_failing(document):
        return Concern.STUCK
    if phase == "promoting":
        return Concern.PROMOTING
    if document.get("alarms"):
        return Concern.ALARMED
    if phase == "promoted":
        return Concern.PROMOTED
    if _is_cut_off(document):
        return Concern.CUT_OFF
    if phase not in ("following", "gap"):
        return Concern.UNPROTECTED
    if _is_exposed(document):
        return Concern.EXPOSED
    if _longer_than(REPLAY_BEHIND_SECONDS, get(document, "apply_gap", "seconds")):
        return Concern.BEHIND
    return Concern.WARNED if get(document, "compat", "verdict") == "warn" else Concern.WELL


def worst_first(documents: Iterable[Document]) -> list[Document]:
    """By concern; of the same concern by what would be lost.  Those that are well stand by name,
    so that a line stays where it is while all goes on."""
    return sorted(documents, key=_key)


def _key(document: Document) -> tuple[Concern, float, float, str]:
    concern, name = concern_of(document), str(get(document, "name"))
    if not concern.needs_a_person:
        return (concern, 0.0, 0.0, name)
    gap = get(document, "transfer_gap")
    return (concern, -_amount(get(gap, "seconds")), -_amount(get(gap, "bytes")), name)


def _is_failing(document: Document) -> bool:
    """Whether its standby does not stay up.  An error is told until it has run for a while, so
    that one that is started again and again is not well in between."""
    state = get(document, "standby", "state")
    failed = state == "waiting" or bool(get(document, "standby", "last_error"))
    return failed and state != "promoted"


def _is_cut_off(document: Document) -> bool:
    state = get(document, "link", "state")
    if state == "lost" or get(document, "primary", "reachable") is False:
        return True
    if get(document, "phase") in ("following", "gap") and state not in ("connected", "bucket"):
        return True  # a standby is there, and nothing is known to feed it
    return bool(state == "bucket" and get(document, "bucket", "state") == "failed")


def _is_exposed(document: Document) -> bool:
    if _longer_than(BEHIND_SECONDS, get(document, "transfer_gap", "seconds")):
        return True
    # Through a bucket nobody says here what the primary thinks of its shipper.
    asked = get(document, "protection", "configured") == "sync"
    given = get(document, "protection", "in_effect") in ("sync", "quorum")
    return asked and not given and get(document, "link", "state") == "connected"


def _longer_than(limit_seconds: float, seconds: object) -> bool:
    return isinstance(seconds, int | float) and seconds > limit_seconds


def _amount(value: object) -> float:
    """What is not known may be any amount."""
    return float(value) if isinstance(value, int | float) else float("inf")

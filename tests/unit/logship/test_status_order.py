"""Which instance comes first: the one that a person must look at first."""

from __future__ import annotations

import random
from typing import Any

import pytest

from logship.status_order import (
    BEHIND_SECONDS,
    REPLAY_BEHIND_SECONDS,
    Concern,
    concern_of,
    worst_first,
)

WELL: dict[str, Any] = {
    "name": "well",
    "phase": "following",
    "link": {"state": "connected"},
    "protection": {"configured": "async", "in_effect": "async"},
    "primary": {"reachable": True},
    "standby": {"state": "running"},
    "transfer_gap": {"bytes": 96, "seconds": 0.1},
    "apply_gap": {"bytes": 0, "seconds": 0.0},
    "gap": None,
    "bucket": None,
    "compat": {"verdict": "pass", "findings": []},
    "alarms": [],
}
ALARM = {"code": "slot-lost", "what": "gone", "hint": "seed again"}
SYNC = {"configured": "sync", "in_effect": "sync"}


@pytest.mark.parametrize(
    ("changes", "concern"),
    [
        ({}, Concern.WELL),
        ({"phase": "blocked", "alarms": [ALARM]}, Concern.STUCK),
        ({"phase": "gap", "gap": {"filling": False}}, Concern.STUCK),
        ({"phase": "gap", "gap": {"filling": True}}, Concern.WELL),
        ({"standby": {"state": "waiting", "last_error": "it did not start"}}, Concern.STUCK),
        ({"standby": {"state": "starting", "last_error": "it did not start"}}, Concern.STUCK),
        ({"standby": {"state": "running", "last_error": "it crashed"}}, Concern.STUCK),
        ({"standby": {"state": "starting", "last_error": None}}, Concern.WELL),
        (
            {"phase": "promoted", "standby": {"state": "promoted", "last_error": "it was"}},
            Concern.PROMOTED,
        ),
        ({"phase": "promoting"}, Concern.PROMOTING),
        ({"alarms": [ALARM]}, Concern.ALARMED),
        ({"link": {"state": "lost"}}, Concern.CUT_OFF),
        ({"link": {"state": "never"}}, Concern.CUT_OFF),
        ({"link": None}, Concern.CUT_OFF),
        ({"primary": {"reachable": False}}, Concern.CUT_OFF),
        ({"link": {"state": "bucket"}, "bucket": {"state": "failed"}}, Concern.CUT_OFF),
        ({"link": {"state": "bucket"}, "bucket": {"state": "up-to-date"}}, Concern.WELL),
        ({"phase": "waiting", "link": {"state": "never"}}, Concern.UNPROTECTED),
        ({"phase": "seeding"}, Concern.UNPROTECTED),
        ({"phase": "of a newer applier"}, Concern.UNPROTECTED),
        ({"protection": SYNC}, Concern.WELL),
        ({"protection": {**SYNC, "in_effect": "quorum"}}, Concern.WELL),
        ({"protection": {**SYNC, "in_effect": "async"}}, Concern.EXPOSED),
        ({"protection": {**SYNC, "in_effect": "unknown"}}, Concern.EXPOSED),
        (
            {"protection": {**SYNC, "in_effect": "unknown"}, "link": {"state": "bucket"}},
            Concern.WELL,
        ),
        ({"transfer_gap": {"bytes": 9, "seconds": BEHIND_SECONDS + 1}}, Concern.EXPOSED),
        ({"apply_gap": {"bytes": 9, "seconds": REPLAY_BEHIND_SECONDS + 1}}, Concern.BEHIND),
        ({"apply_gap": {"bytes": 9, "seconds": None}}, Concern.WELL),
        ({"compat": {"verdict": "warn"}}, Concern.WARNED),
        ({"phase": "promoted", "link": {"state": "lost"}}, Concern.PROMOTED),
        ({"phase": "promoted", "alarms": [ALARM]}, Concern.ALARMED),
    ],
)
def test_the_worst_of_an_instance_counts(changes: dict[str, Any], concern: Concern) -> None:
    assert concern_of({**WELL, **changes}) is concern


def test_nothing_that_is_known_is_not_well() -> None:
    assert concern_of({"name": "main"}).needs_a_person


def test_worst_first_and_among_equals_by_what_would_be_lost() -> None:
    def cut_off(name: str, byte_count: int | None, seconds: float | None) -> dict[str, Any]:
        gap = {"bytes": byte_count, "seconds": seconds}
        return {**WELL, "name": name, "link": {"state": "lost"}, "transfer_gap": gap}

    expected = [
        {**WELL, "name": "z-stuck", "phase": "blocked"},
        {**WELL, "name": "y-alarmed", "alarms": [ALARM]},
        cut_off("nobody-knows", None, None),
        cut_off("long", 10, 300.0),
        cut_off("short-but-much", 10 << 30, 20.0),
        cut_off("short", 10, 20.0),
        {**WELL, "name": "x-seeding", "phase": "seeding"},
        {**WELL, "name": "b-warned", "compat": {"verdict": "warn"}},
        {**WELL, "name": "a", "transfer_gap": {"bytes": 1, "seconds": 0.1}},
        {**WELL, "name": "b", "transfer_gap": {"bytes": 999, "seconds": 0.9}},
        {**WELL, "name": "a-promoted", "phase": "promoted"},
    ]
    for seed in range(20):
        shuffled = random.Random(seed).sample(expected, len(expected))
        assert worst_first(shuffled) == expected

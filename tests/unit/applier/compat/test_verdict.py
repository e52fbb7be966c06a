"""What a verdict says of its findings."""

from __future__ import annotations

import msgspec

from applier.compat import Finding, Outcome, Verdict

PASSED = Finding("major", Outcome.PASS, "17", "17", "WAL is of one major.")
WARNED = Finding("minor-order", Outcome.WARN, "17.9", "17.7", "Older.", "Upgrade.", True)
BLOCKED = Finding("block-size", Outcome.BLOCK, "8192", "4096", "Other pages.", "Rebuild.")


def test_the_worst_finding_is_the_outcome() -> None:
    assert Verdict(()).outcome is Outcome.PASS
    assert Verdict((PASSED, WARNED)).outcome is Outcome.WARN
    assert Verdict((PASSED, BLOCKED, WARNED)).blocked
    assert Verdict((PASSED, WARNED, BLOCKED)).concerns == (BLOCKED, WARNED)


def test_the_summary_names_only_the_worst() -> None:
    assert Verdict((PASSED,)).summary() == "pass: all 1 rules"
    assert Verdict((WARNED, BLOCKED)).summary() == "blocked: block-size (8192 / 4096)"
    assert Verdict((WARNED,)).summary() == "warning: minor-order (17.9 / 17.7)"


def test_the_dict_can_be_json() -> None:
    encoded = msgspec.json.decode(msgspec.json.encode(Verdict((PASSED, WARNED)).as_dict()))
    assert encoded["outcome"] == "warn"
    assert encoded["overridden"] == ["minor-order"]
    assert encoded["findings"][1] == {
        "rule": "minor-order",
        "outcome": "warn",
        "primary": "17.9",
        "standby": "17.7",
        "why": "Older.",
        "remedy": "Upgrade.",
        "overridden": True,
    }

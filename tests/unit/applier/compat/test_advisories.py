"""Reading the list of known-bad minors."""

from __future__ import annotations

import pytest

from applier.compat.advisories import load_advisories, parse_advisories

ENTRY = """
[[advisory]]
name = "a"
fixed_in = ["17.11"]
reason = "r"
remedy = "m"
source = "s"
"""


def test_every_shipped_advisory_says_why_and_from_where() -> None:
    for advisory in load_advisories():
        assert advisory.reason
        assert advisory.source
        assert advisory.remedy


@pytest.mark.parametrize(
    "text",
    [
        ENTRY.replace("17.11", "17"),
        ENTRY.replace("reason", "cause"),
        f'{ENTRY}introduced_in = ["seventeen"]',
        f'{ENTRY}primary_before = ["17"]',
        f'{ENTRY}side = "both"',
        "x = 1",
    ],
)
def test_a_file_that_is_not_as_described_is_refused(text: str) -> None:
    assert parse_advisories(ENTRY)
    with pytest.raises(ValueError, match="advisories"):
        parse_advisories(text)

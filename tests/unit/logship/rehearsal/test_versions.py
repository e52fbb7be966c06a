"""Whether a shipper and an applier will talk."""

from __future__ import annotations

import pytest

from logship.rehearsal.agreement import LINK_PROTOCOL
from logship.rehearsal.steps.versions import compare_protocols


@pytest.mark.parametrize(
    ("shipper", "applier", "outcome"),
    [((1, 1), (1, 2), "pass"), ((2, 3), (1, 2), "pass"), ((2, 2), (1, 1), "block")],
)
def test_a_version_in_common_is_enough(
    shipper: tuple[int, int], applier: tuple[int, int], outcome: str
) -> None:
    said = compare_protocols(shipper, applier)
    assert (said.rule, said.outcome) == (LINK_PROTOCOL, outcome)
    assert (said.primary, said.standby) == (
        f"{shipper[0]}-{shipper[1]}",
        f"{applier[0]}-{applier[1]}",
    )
    assert ("upgrade the applier" in said.remedy) is (outcome == "block")


def test_one_that_does_not_say_is_not_compared() -> None:
    assert compare_protocols(None, (1, 1)).outcome == "pass"
    assert compare_protocols((1, 1), None).standby == ""

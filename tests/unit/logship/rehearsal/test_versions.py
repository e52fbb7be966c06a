"""Whether a shipper and an applier will talk."""

from __future__ import annotations

import pytest

from logship.rehearsal.agreement import LINK_FACTS, LINK_PROTOCOL
from logship.rehearsal.steps.versions import compare_protocols, spoken


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


def test_one_that_does_not_say_is_not_compared_and_that_is_told() -> None:
    said = compare_protocols(None, (1, 1))
    assert (said.rule, said.outcome, said.compared) == (LINK_FACTS, "warn", "- / 1-1")
    assert compare_protocols((1, 1), None).compared == "1-1 / -"


@pytest.mark.parametrize(
    ("text", "protocol"),
    [
        ('{"program": "shipper", "protocol": {"oldest": 1, "newest": 2}}\n', (1, 2)),
        ("shipper 0.1.0\n", (1, 1)),
        ("applier 0.1.0\n", None),
        ("shipper: no such module\n", None),
        ('{"protocol": 3}\n', None),
        ("", None),
    ],
)
def test_what_a_program_says_that_it_speaks(text: str, protocol: tuple[int, int] | None) -> None:
    assert spoken("shipper", text) == protocol

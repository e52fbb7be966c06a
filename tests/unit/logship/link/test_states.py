from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from logship.link.states import (
    APPLIER_TRANSITIONS,
    SHIPPER_TRANSITIONS,
    ApplierState,
    ApplierTrigger,
    IllegalTransition,
    ShipperState,
    ShipperTrigger,
    next_state,
)

DOCUMENT = Path(__file__).parents[4] / "docs" / "link-protocol.md"


def test_an_unlisted_pair_raises() -> None:
    with pytest.raises(IllegalTransition, match="send hello while open"):
        next_state(SHIPPER_TRANSITIONS, ShipperState.OPEN, ShipperTrigger.SEND_HELLO)


@pytest.mark.parametrize(
    ("table", "states", "triggers"),
    [
        (SHIPPER_TRANSITIONS, ShipperState, ShipperTrigger),
        (APPLIER_TRANSITIONS, ApplierState, ApplierTrigger),
    ],
)
def test_every_state_is_reached_every_trigger_used_and_closed_is_final(
    table: Mapping[tuple[Any, Any], Any], states: type[StrEnum], triggers: type[StrEnum]
) -> None:
    first = next(iter(states))
    assert set(states) == {first, *table.values()}
    assert set(triggers) == {trigger for _, trigger in table}
    assert not [pair for pair in table if pair[0] == "closed"]


@pytest.mark.parametrize("table", [SHIPPER_TRANSITIONS, APPLIER_TRANSITIONS])
def test_the_document_prints_the_tables_as_they_are(
    table: Mapping[tuple[Any, Any], Any],
) -> None:
    rows = "\n".join(f"| {state} | {trigger} | {to} |" for (state, trigger), to in table.items())
    assert rows in DOCUMENT.read_text()

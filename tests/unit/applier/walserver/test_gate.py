from __future__ import annotations

from applier.walserver.gate import OPEN_GATE, Gate
from logship.lsn import Lsn


def test_an_open_gate_lets_everything_through() -> None:
    assert OPEN_GATE.limit(0, Lsn(500)) == 500


def test_a_gate_holds_at_its_position_and_never_gives_more_than_there_is() -> None:
    gate = Gate(hold_at_lsn=Lsn(300))
    assert gate.limit(0, Lsn(500)) == 300
    assert gate.limit(0, Lsn(200)) == 200

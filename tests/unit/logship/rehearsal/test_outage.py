"""How much WAL only the primary had."""

from __future__ import annotations

from logship.rehearsal.steps.outage import Exposure


def test_nothing_is_known_before_both_sides_answered() -> None:
    exposure = Exposure()
    exposure.see(100, None)
    assert exposure.most_bytes is None
    exposure.see(None, 100)
    assert exposure.most_bytes == 0


def test_a_side_that_is_down_is_where_it_was_last_seen() -> None:
    exposure = Exposure()
    exposure.see(100, 100)
    exposure.see(150, None)
    exposure.see(None, 140)
    assert exposure.most_bytes == 50
    exposure.see(160, 160)
    assert exposure.most_bytes == 50, "the most, not the last"


def test_what_is_durable_before_the_primary_says_so_is_no_exposure() -> None:
    exposure = Exposure()
    exposure.see(100, 120)
    assert exposure.most_bytes == 0

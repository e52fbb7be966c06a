from __future__ import annotations

import pytest

from logship.lsn import Lsn, Position


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0/0", 0),
        ("0/1", 1),
        ("16/B374D848", 0x16B374D848),
        ("FFFFFFFF/FFFFFFFF", (1 << 64) - 1),
        ("1/00000000", 1 << 32),
    ],
)
def test_positions_read_and_print_as_postgresql_does(text: str, number: int) -> None:
    assert Lsn.parse(text) == number
    assert Lsn.parse(str(Lsn(number))) == number


def test_positions_print_without_leading_zeros() -> None:
    assert str(Lsn((1 << 32) | 0xAB)) == "1/AB"
    assert f"{Lsn(255):>6}" == "  0/FF"
    assert repr(Lsn(1)) == "Lsn(0/1)"
    assert str(Position(3, Lsn(16))) == "3:0/10"


@pytest.mark.parametrize(
    "text", ["", "0", "0/", "/0", "0/0/0", "0/G", "123456789/0", "0/123456789", "-1/0", "0/0\n"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a WAL position"):
        Lsn.parse(text)


def test_lower_case_is_read() -> None:
    assert Lsn.parse("a/b") == Lsn.parse("A/B")


def test_positions_order_by_timeline_first() -> None:
    assert Position(1, Lsn(10)) < Position(1, Lsn(11)) < Position(2, Lsn(5))

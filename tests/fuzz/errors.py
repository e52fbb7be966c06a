"""What a parser may answer to input that it does not take."""

from __future__ import annotations

from logship.errors import Code, LogshipError
from tests.fuzz.target import check_message


def check_refusal(error: LogshipError, *codes: Code) -> None:
    """One of these codes, in words of bounded length."""
    assert error.code in codes, error
    check_message(error.what)
    assert len(error.hint) <= 1000

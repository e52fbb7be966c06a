"""Positions in a write-ahead log.

An `Lsn` is a byte position in one cluster's WAL (PostgreSQL: `XLogRecPtr`, a 64-bit unsigned
integer).  Alone it is ambiguous: after a promotion the same LSN exists on two timelines with
different bytes.  `Position` is therefore what travels and what is compared for durability.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NewType

Timeline = NewType("Timeline", int)
"""A TimeLineID: 32-bit, starts at 1, grows with every promotion."""

_LSN_TEXT = re.compile(r"\A([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\Z")


class Lsn(int):
    """A WAL byte position.  Prints as PostgreSQL's `pg_lsn` does: `16/B374D848`.

    Arithmetic gives plain integers, as a difference of positions is a number of bytes;
    wrap the result in `Lsn` where it is a position again.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read `16/B374D848`.  Raises ValueError for anything else."""
        match = _LSN_TEXT.match(text)
        if match is None:
            raise ValueError(f"not a WAL position: {text!r}")
        return cls((int(match[1], 16) << 32) | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn({self!s})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def plain_lsn(value: object) -> int:
    """`enc_hook` for msgspec, which encodes no subclasses of int by itself."""
    if isinstance(value, Lsn):
        return int(value)
    raise NotImplementedError(f"can't encode {type(value).__name__}")


class Position(NamedTuple):
    """A place in one cluster's log: everything below `lsn` on `timeline`'s history.

    Compares by timeline first, which is right only between positions on one line of
    descent; callers that hold a fork point compare against it instead.
    """

    timeline: int
    lsn: Lsn

    def __str__(self) -> str:
        return f"{self.timeline}:{self.lsn}"

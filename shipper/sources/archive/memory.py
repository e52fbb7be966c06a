"""What was given out of an outbox, so that other bytes under the same name are noticed.  No I/O.

Bounded: the newest `limit` files.  Without it (an older file, a lost state) a file's place
alone decides, and the store compares whatever it is sent again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import msgspec

from logship.decoders import json_decoder
from logship.documents import UNREADABLE

LIMIT = 512


class Look(NamedTuple):
    """A file from outside: the same look means that nobody has written to it."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class Given(NamedTuple):
    """crc32c: of the part that was meant, `size_bytes` from its start."""

    crc32c: int
    size_bytes: int
    look: Look


class _Document(msgspec.Struct, frozen=True):
    format: int
    given: dict[str, Given]


class Memory:
    """By file name, in the order in which they were given out."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._given: OrderedDict[str, Given] = OrderedDict()
        self.changed = False
        """Whether it holds something that `encode` has not put into a document."""

    def get(self, name: str) -> Given | None:
        return self._given.get(name)

    def names(self) -> list[str]:
        return list(self._given)

    def note(self, name: str, given: Given) -> None:
        """`name` is about to be given out, or was found to be the same again."""
        if self._given.get(name) == given:
            return
        self._given[name] = given
        while len(self._given) > self._limit:
            self._given.popitem(last=False)
        self.changed = True

    def encode(self) -> bytes:
        self.changed = False
        return msgspec.json.encode(_Document(1, dict(self._given))) + b"\n"

    @classmethod
    def decode(cls, content: bytes, limit: int = LIMIT) -> Memory:
        """Raises ValueError for anything that `encode` does not write."""
        try:
            document = json_decoder(_Document).decode(content)
        except UNREADABLE as error:
            raise ValueError(str(error)) from error
        if document.format != 1:
            raise ValueError(f"format {document.format}")
        memory = cls(limit)
        for name, given in document.given.items():
            memory.note(name, given)
        memory.changed = False
        return memory

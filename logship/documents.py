"""Documents of ours: what reading and writing them raises."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from logship import durable
from logship.decoders import json_decoder
from logship.errors import Code, LogshipError

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no document of ours.

Whoever decodes bytes from a peer or a disk catches all of it: its own error alone leaves out
text that is no UTF-8 and values nested without end, which it raises as Python does.
"""


class _Numbered(Protocol):
    @property
    def format(self) -> int: ...


_Document = TypeVar("_Document", bound=_Numbered)


def decode_numbered(
    data: bytes, kind: type[_Document], number: int, where: str, hint: str
) -> _Document:
    """JSON that says the number of its format.  Raises LogshipError(OBJECT_DAMAGED): it is not
    readable, or of another format."""
    try:
        document = json_decoder(kind).decode(data)
        if document.format != number:
            raise msgspec.DecodeError(f"format {document.format}")
    except UNREADABLE as error:
        raise LogshipError(Code.OBJECT_DAMAGED, f"{where} can't be read: {error}", hint) from error
    return document


def not_written(path: Path, error: OSError) -> LogshipError:
    """DISK_FULL or STORE_FAILED, retryable: what stood at `path` before still stands."""
    full = error.errno in durable.DISK_FULL_ERRNOS
    return LogshipError(
        Code.DISK_FULL if full else Code.STORE_FAILED,
        f"{path} can't be written: {error.strerror}",
        "make room" if full else "look at the disk and its messages",
        retryable=True,
    )

"""Documents of ours: what reading and writing them raises."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from logship import durable
from logship.errors import Code, LogshipError

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no document of ours.

Whoever decodes bytes from a peer or a disk catches all of it: its own error alone leaves out
text that is no UTF-8 and values nested without end, which it raises as Python does.
"""


def not_written(path: Path, error: OSError) -> LogshipError:
    """DISK_FULL or STORE_FAILED, retryable: what stood at `path` before still stands."""
    full = error.errno in durable.DISK_FULL_ERRNOS
    return LogshipError(
        Code.DISK_FULL if full else Code.STORE_FAILED,
        f"{path} can't be written: {error.strerror}",
        "make room" if full else "look at the disk and its messages",
        retryable=True,
    )

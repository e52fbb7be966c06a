"""The standby's own log: why it failed, and keeping the file from growing for ever."""

from __future__ import annotations

import os
import re
from pathlib import Path

from logship import durable

_MAX_BYTES = 16 << 20
_TAIL_BYTES = 64 * 1024
_KEPT_BYTES = 1 << 20

_FAILURE = re.compile(r"^.*\b(?:FATAL|PANIC|ERROR): .*$", re.MULTILINE)
_UNINTERESTING = (
    "terminating connection due to administrator command",
    "the database system is ",
    "could not connect to the primary server",
    "could not receive data from WAL stream",
    "terminating walreceiver",
    "terminating background worker",
)


def last_failures(log_file: Path, from_offset_bytes: int, count: int = 3) -> list[str]:
    """The last lines in which the server said why it failed, oldest first.

    Looks at what the log got from `from_offset_bytes` on (its size at the server's start), 64
    KiB of it at most, and leaves out what only follows from a shutdown or a lost WAL server.
    """
    text = tail(log_file, from_offset_bytes)
    found = [match[0].strip() for match in _FAILURE.finditer(text)]
    return [line for line in found if not any(words in line for words in _UNINTERESTING)][-count:]


def tail(log_file: Path, from_offset_bytes: int = 0) -> str:
    """What the log got from `from_offset_bytes` on, the last 64 KiB of it; "" without a log."""
    return _read_tail(log_file, _TAIL_BYTES, from_offset_bytes).decode("utf-8", "replace")


def size_bytes(log_file: Path) -> int:
    """The log's size now, 0 if there is none."""
    try:
        return log_file.stat().st_size
    except FileNotFoundError:
        return 0


def trim(log_file: Path) -> bool:
    """Empty a log of more than 16 MiB, the last MiB kept as `NAME.1`.  Whether it did.

    The server may be running: pg_ctl opened the file for appending, so the server goes on at
    the new end.  What it writes between our look and the truncation is lost.
    """
    if size_bytes(log_file) <= _MAX_BYTES:
        return False
    durable.write_file(log_file.with_name(f"{log_file.name}.1"), _read_tail(log_file, _KEPT_BYTES))
    os.truncate(log_file, 0)
    return True


def _read_tail(log_file: Path, size_limit_bytes: int, from_offset_bytes: int = 0) -> bytes:
    try:
        with open(log_file, "rb") as log:
            end = log.seek(0, os.SEEK_END)
            # An offset beyond the end is of a log that was trimmed since.
            start = from_offset_bytes if from_offset_bytes <= end else 0
            log.seek(max(start, end - size_limit_bytes))
            return log.read(size_limit_bytes)
    except FileNotFoundError:
        return b""

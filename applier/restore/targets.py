"""What an operator asks to restore to.  Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from logship.errors import Code, UsageError
from logship.lsn import Lsn

Kind = Literal["time", "lsn", "name", "latest"]

_BARE_OFFSET = re.compile(r"([+-][0-9]{2})\Z")
_MAX_NAME_BYTES = 63  # MAXFNAMELEN - 1


class Target(NamedTuple):
    """One of the four; `time` in microseconds since 1970-01-01 UTC."""

    kind: Kind
    time: int = 0
    lsn: Lsn = Lsn(0)
    name: str = ""

    def __str__(self) -> str:
        if self.kind == "time":
            return f"time {shown_time(self.time)}"
        if self.kind == "lsn":
            return f"LSN {self.lsn}"
        if self.kind == "name":
            return f"restore point {self.name!r}"
        return "the latest"


LATEST = Target("latest")


def parse_time(text: str) -> int:
    """Microseconds since 1970 UTC of an ISO 8601 time: `2026-03-01 12:00:00.5+01:00`, or with
    `T` and `Z`, a date alone, or an offset of hours (`+01`) as PostgreSQL prints it.

    A time without a zone is taken as UTC: a recovery server's zone is seldom that of who asks.
    Raises UsageError.
    """
    try:
        found = datetime.fromisoformat(_BARE_OFFSET.sub(r"\1:00", text.strip()))
    except ValueError as error:
        raise UsageError(
            Code.USAGE,
            f"{text!r} is no time",
            "write it as 2026-03-01T12:00:00+01:00: date, time, offset from UTC; names of zones "
            "are not taken, and without an offset it is UTC",
        ) from error
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    since = found - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def shown_time(microseconds: int) -> str:
    """For people, and as `parse_time` reads it: `2026-03-01 12:00:00.000000+00`."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    try:
        found = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{microseconds} µs since 1970"
    return f"{found:%Y-%m-%d %H:%M:%S}.{fraction:06d}+00"


def make_target(
    *, to_time: str | None, to_lsn: str | None, to_name: str | None, latest: bool
) -> Target:
    """From a command's options, of which exactly one must be given.  Raises UsageError."""
    given = [each for each in (to_time, to_lsn, to_name) if each is not None]
    if len(given) + latest != 1:
        raise UsageError(
            Code.USAGE,
            "say exactly one moment to restore to",
            "--to-time T, --to-lsn L, --to-name N or --latest; `applier window NAME` shows what "
            "there is",
        )
    if to_time is not None:
        return Target("time", time=parse_time(to_time))
    if to_lsn is not None:
        try:
            return Target("lsn", lsn=Lsn.parse(to_lsn))
        except ValueError as error:
            raise UsageError(Code.USAGE, str(error), "an LSN is written 16/B374D848") from error
    if to_name is not None:
        if not 0 < len(to_name.encode("utf-8", "surrogateescape")) <= _MAX_NAME_BYTES:
            raise UsageError(
                Code.USAGE,
                f"{to_name[:80]!r} can't name a restore point",
                f"PostgreSQL's have 1 to {_MAX_NAME_BYTES} bytes",
            )
        return Target("name", name=to_name)
    return LATEST

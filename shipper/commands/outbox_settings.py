"""How a primary of each major fills an outbox.  Pure."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final, Literal, NamedTuple

from logship.wal import PAGE_MAGIC

MAJORS: Final = tuple(sorted(PAGE_MAGIC))
TIMEOUT_SECONDS: Final = 60

Takes = Literal["restart", "reload"]

LIBRARY_SINCE: Final = 15


class Parameter(NamedTuple):
    """One setting of postgresql.conf.  takes: what it needs to come into effect."""

    name: str
    value: str
    takes: Takes
    why: str

    @property
    def line(self) -> str:
        """As it is written into postgresql.conf."""
        quoted = self.value.replace("\\", "\\\\").replace("'", "''")
        return f"{self.name} = '{quoted}'"


def archiving(major: int, outbox: Path) -> tuple[Parameter, ...]:
    """All that a primary of `major` needs to fill `outbox`."""
    mode = Parameter("archive_mode", "on", "restart", "the archiver runs")
    timeout = Parameter(
        "archive_timeout",
        str(TIMEOUT_SECONDS),
        "reload",
        "a segment that is not full is archived after so many seconds: what is lost at most",
    )
    if major < LIBRARY_SINCE:
        why = "copies under another name, syncs, renames; refuses to replace other bytes"
        command = Parameter("archive_command", archive_command(outbox), "reload", why)
        return (mode, command, timeout)
    return (
        mode,
        Parameter("archive_command", "", "reload", "a library and a command exclude each other"),
        Parameter("archive_library", "basic_archive", "reload", "part of PostgreSQL's contrib"),
        Parameter("basic_archive.archive_directory", str(outbox), "reload", "the outbox"),
        timeout,
    )


def archive_command(outbox: Path) -> str:
    """A copy that is whole and on disk before it has its name, and never replaces another.

    After a crash the server archives a segment again: the same bytes are fine then.
    """
    directory = shlex.quote(str(outbox).replace("%", "%%"))
    temporary, final = f"{directory}/archtemp.%f", f"{directory}/%f"
    return (
        f"if test -e {final}; then cmp -s %p {final}; "
        f"else dd if=%p of={temporary} bs=1M conv=fsync status=none && "
        f"mv {temporary} {final}; fi && sync {final} {directory}"
    )

"""The standby's pg_hba.conf: who may connect.  Pure.

While it is a standby: its bootstrap superuser, through the unix socket, and nobody else.  The
socket is trusted, so its directory must be private (`placement.make_socket_directory`).
Once promoted: the same, then the rules that the primary had.

Format: PostgreSQL documentation, "The pg_hba.conf File".
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

_HEAD = """\
# Written by the applier: changes made here are lost at the standby's next start.
#
# The applier itself.  The directory of this server's unix socket is open to nobody but root
# and the user that the server runs as.
local all {superuser} trust
"""

_CLOSED = """\
#
# Nobody else while this is a standby.
local all all reject
local replication all reject
host all all all reject
host replication all all reject
"""

_OPENED = """\
#
# Promoted: from here on the rules that the primary had.
"""

LEFT_OUT = "# left out by the applier: "
"""Begins a line of the primary's that this PostgreSQL can't read."""

_INCLUDE = re.compile(r"^(\s*(?:include|include_if_exists|include_dir)\s+)(\"?)([^\s\"]+)\2")
_AT_FILE = re.compile(r"(^|[\s,])@(\"?)([^\s,\"]+)\2")


def render_closed(bootstrap_superuser: str) -> str:
    """For a standby."""
    return _HEAD.format(superuser=_quoted(bootstrap_superuser)) + _CLOSED


def render_opened(
    bootstrap_superuser: str,
    primary_rules: str,
    primary_directory: Path,
    left_out: Collection[int] = frozenset(),
) -> str:
    """For a promoted server.

    primary_rules: the content of the primary's pg_hba.conf.  primary_directory: where that
    file stood: files that it includes are found from there.  left_out: line numbers of the
    rendered file (from 1) that this PostgreSQL can't read and that become comments; a single
    line with an error would make the server ignore the whole file.
    """
    head = _HEAD.format(superuser=_quoted(bootstrap_superuser)) + _OPENED
    rules = "\n".join(_anchored(line, primary_directory) for line in primary_rules.splitlines())
    lines = (head + rules).splitlines()
    return (
        "\n".join(
            LEFT_OUT + line if number in left_out else line
            for number, line in enumerate(lines, start=1)
        )
        + "\n"
    )


def _anchored(line: str, directory: Path) -> str:
    """The line with paths of other files made absolute: this file stands elsewhere."""
    if line.lstrip().startswith("#"):
        return line
    if _INCLUDE.match(line):
        return _INCLUDE.sub(lambda found: f'{found[1]}"{directory / found[3]}"', line)
    return _AT_FILE.sub(lambda found: f'{found[1]}@"{directory / found[3]}"', line)


def _quoted(name: str) -> str:
    # Quoted, a name like `all` or `+admins` has no special meaning.
    return '"' + name.replace('"', '""') + '"'

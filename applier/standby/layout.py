"""Where the files of one standby are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from logship.errors import Code, UsageError

_SUN_PATH_BYTES = 107
"""Longest path of a unix socket on Linux: `sun_path` has 108 bytes, one of them the NUL."""


class StandbyLayout(NamedTuple):
    """incarnation_directory: `instances/NAME/SYSID-MAJOR`.  socket_directory: where the
    server puts its unix socket; private to this standby, and its path must be short."""

    incarnation_directory: Path
    socket_directory: Path

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.incarnation_directory / "data"

    @property
    def standby(self) -> Path:
        """What is ours: configuration, log, the primary's settings set aside."""
        return self.incarnation_directory / "standby"

    @property
    def config_file(self) -> Path:
        return self.standby / "postgresql.conf"

    @property
    def hba_file(self) -> Path:
        return self.standby / "pg_hba.conf"

    @property
    def ident_file(self) -> Path:
        return self.standby / "pg_ident.conf"

    @property
    def log_file(self) -> Path:
        return self.standby / "server.log"

    @property
    def primary_settings(self) -> Path:
        """Directory of the configuration files that the seed brought."""
        return self.standby / "primary"

    @property
    def signal_file(self) -> Path:
        """PostgreSQL is a standby while this is there, and removes it when promoted."""
        return self.data / "standby.signal"

    @property
    def control_file(self) -> Path:
        return self.data / "global" / "pg_control"


def check_socket_path(directory: Path, port: int, what: str) -> Path:
    """Return `directory` if PostgreSQL can have the socket of `port` in it.

    Raises UsageError(SETTINGS): not absolute, too long for a unix socket, or with characters
    that separate entries in PostgreSQL's lists.  `what`: the setting's name for the message.
    """
    socket = directory / f".s.PGSQL.{port}"
    if not directory.is_absolute():
        raise UsageError(Code.SETTINGS, f"{what} {directory} is not absolute", "write it in full")
    if len(os.fsencode(socket)) > _SUN_PATH_BYTES:
        raise UsageError(
            Code.SETTINGS,
            f"{what}: {socket} is longer than the {_SUN_PATH_BYTES} bytes of a unix socket's path",
            "choose a shorter directory for sockets",
        )
    if any(character in str(directory) for character in ',"'):
        raise UsageError(
            Code.SETTINGS,
            f"{what}: {directory} has a comma or a double quote in it",
            "choose a directory without them: PostgreSQL would take it for a list",
        )
    return directory

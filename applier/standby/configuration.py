"""The standby's postgresql.conf, rendered anew for each start.  Pure.

It does not build on the primary's: that one names paths, libraries, memory and addresses of
another machine.  What replay needs of the primary, its parameter floors, comes from the
control file and the profile (`src/backend/access/transam/xlogrecovery.c`,
`CheckRequiredParameterValues`: a standby with a smaller value pauses or stops).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from applier.standby.layout import StandbyLayout, check_socket_path
from logship.errors import Code, UsageError

SettingValue = str | int | float | bool


class HasFloors(Protocol):
    """What a control file and a `Profile` both tell of the primary's parameters."""

    @property
    def max_connections(self) -> int: ...
    @property
    def max_worker_processes(self) -> int: ...
    @property
    def max_wal_senders(self) -> int: ...
    @property
    def max_prepared_transactions(self) -> int: ...
    @property
    def max_locks_per_transaction(self) -> int: ...


class ParameterFloors(NamedTuple):
    """The least that a standby must have of each; the defaults are PostgreSQL's own."""

    max_connections: int = 100
    max_worker_processes: int = 8
    max_wal_senders: int = 10
    max_prepared_transactions: int = 0
    max_locks_per_transaction: int = 64

    @classmethod
    def of(cls, source: HasFloors) -> ParameterFloors:
        return cls(*(int(getattr(source, name)) for name in cls._fields))

    def merge(self, other: ParameterFloors) -> ParameterFloors:
        """The greater of each."""
        return ParameterFloors(*map(max, self, other))

    def covers(self, other: ParameterFloors) -> bool:
        """Whether a server with these values can replay what demands `other`."""
        return self.merge(other) == self


class StandbySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator decides about one standby, and where its WAL comes from."""

    instance: str
    port: int
    """Of the standby itself, also the one that clients use after a promotion."""
    wal_server_directory: Path
    """Where the applier's WAL server has its unix socket."""
    wal_server_port: int
    listen_addresses: str = "localhost"
    """TCP addresses.  Everyone is turned away there until the promotion; a change takes a
    restart, so what clients shall reach after a promotion must be here before."""
    shared_buffers_mb: int = 128
    max_standby_delay_ms: int = 0
    """How long replay waits for a query that is in its way, before it cancels the query."""
    settings: Mapping[str, SettingValue] = {}
    """Any other parameter of PostgreSQL: see `check_operator_settings`."""


class PrimaryTraits(NamedTuple):
    """What else the standby takes over from its primary."""

    wal_level: str = "replica"
    track_commit_timestamp: bool = False


_PARAMETER_NAME = re.compile(r"\A[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?\Z")

_REFUSED = {
    "primary_conninfo": "the standby streams from the applier",
    "primary_slot_name": "the standby streams from the applier",
    "restore_command": "the standby streams from the applier",
    "wal_receiver_create_temp_slot": "the standby streams from the applier",
    "hot_standby": "the applier asks the standby for its positions",
    "promote_trigger_file": "only shipper promote opens a standby",
    "synchronous_standby_names": "commits would hang after a promotion",
    "data_directory": "the applier knows where it is",
    "config_file": "the applier writes it",
    "hba_file": "the applier writes it",
    "ident_file": "the applier writes it",
    "external_pid_file": "the applier uses the one in the data directory",
    "port": "it has its own setting",
    "listen_addresses": "it has its own setting",
    "unix_socket_directories": "who reaches the socket is trusted, so its directory is private",
    "unix_socket_permissions": "who reaches the socket is trusted, so its directory is private",
    "unix_socket_group": "who reaches the socket is trusted, so its directory is private",
    "cluster_name": "it is the instance's name",
    "wal_level": "it follows the primary's",
    "track_commit_timestamp": "it follows the primary's",
    "logging_collector": "the applier reads the server's log",
    "log_destination": "the applier reads the server's log",
    "lc_messages": "the applier reads the server's log",
    "fsync": "a crash would damage the standby",
    "full_page_writes": "a crash would damage the standby",
    "ignore_invalid_pages": "damage would go unnoticed",
    "zero_damaged_pages": "damage would go unnoticed",
    "include": "all parameters are in one file",
    "include_if_exists": "all parameters are in one file",
    "include_dir": "all parameters are in one file",
}
_REFUSED_PREFIXES = {
    "recovery_target": "the standby follows the newest timeline to its end",
    "recovery_end_command": "only shipper promote opens a standby",
    "recovery_min_apply_delay": "the WAL server's gate delays a standby",
    "archive_": "a standby must not write into an archive",
}


def check_operator_settings(settings: Mapping[str, SettingValue]) -> dict[str, SettingValue]:
    """The parameters by their lower-case names.

    Raises UsageError(SETTINGS) for one that would break protection, is not a parameter's
    name, is given twice, or has a value that can't stand in postgresql.conf.
    """
    accepted: dict[str, SettingValue] = {}
    for written, value in settings.items():
        name = written.lower()
        if _PARAMETER_NAME.match(written) is None:
            raise _bad_setting(written, "is not the name of a parameter")
        if name in accepted:
            raise _bad_setting(written, "is given twice")
        reason = _REFUSED.get(name) or next(
            (why for prefix, why in _REFUSED_PREFIXES.items() if name.startswith(prefix)), None
        )
        if reason is not None:
            raise _bad_setting(written, f"can't be set for a standby: {reason}")
        if name in ParameterFloors._fields and (isinstance(value, bool) or not _is_int(value)):
            raise _bad_setting(written, f"must be a whole number, not {value!r}")
        _text(written, value)
        accepted[name] = value
    return accepted


def render_configuration(
    settings: StandbySettings,
    layout: StandbyLayout,
    floors: ParameterFloors,
    traits: PrimaryTraits,
) -> str:
    """The whole postgresql.conf, the same text for the same arguments.

    floors: of control file and profile together (`ParameterFloors.merge`); PostgreSQL's
    defaults are added here.  An operator's parameters come last and win, except below a floor.
    Raises UsageError(SETTINGS), see `check_operator_settings` and `check_socket_path`.
    """
    check_socket_path(layout.socket_directory, settings.port, "the standby's socket directory")
    check_socket_path(
        settings.wal_server_directory, settings.wal_server_port, "the WAL server's directory"
    )
    operator = check_operator_settings(settings.settings)
    parameters: dict[str, SettingValue] = {
        **_places(settings, layout),
        **_replication(settings),
        **_behaviour(settings, traits),
        **operator,
    }
    for name, floor in effective_floors(floors, operator)._asdict().items():
        parameters[name] = floor
    lines = [
        "# Written by the applier at each start of this standby: changes made here are lost.",
        f"# Set parameters in the applier's settings file, in {settings.instance}'s table.",
        "",
        *(f"{name} = {_text(name, value)}" for name, value in parameters.items()),
    ]
    return "\n".join(lines) + "\n"


def effective_floors(
    floors: ParameterFloors, operator: Mapping[str, SettingValue]
) -> ParameterFloors:
    """What the configuration sets: the greatest of floors, defaults and operator's values."""
    asked = ParameterFloors(*(int(operator.get(name, 0)) for name in ParameterFloors._fields))
    return ParameterFloors().merge(floors).merge(asked)


def _places(settings: StandbySettings, layout: StandbyLayout) -> dict[str, SettingValue]:
    return {
        "data_directory": str(layout.data),
        "hba_file": str(layout.hba_file),
        "ident_file": str(layout.ident_file),
        "external_pid_file": "",
        "listen_addresses": settings.listen_addresses,
        "port": settings.port,
        "unix_socket_directories": str(layout.socket_directory),
        "unix_socket_permissions": "0700",
        "cluster_name": settings.instance,
    }


def _replication(settings: StandbySettings) -> dict[str, SettingValue]:
    conninfo = {
        "host": str(settings.wal_server_directory),
        "port": str(settings.wal_server_port),
        "user": settings.instance,
        "application_name": settings.instance,
    }
    return {
        "hot_standby": True,
        "primary_conninfo": " ".join(f"{k}={_conninfo_value(v)}" for k, v in conninfo.items()),
        "primary_slot_name": "",
        "restore_command": "",
        "recovery_target_timeline": "latest",
        "archive_mode": False,
        # A failed attempt to reach the WAL server costs a process and 400 bytes of log, for as
        # long as the applier is down; `Standby.retry_streaming` makes the successful one soon.
        "wal_retrieve_retry_interval": "2s",
        # The apply position reaches the applier, and so the shipper, this often when idle.
        "wal_receiver_status_interval": "1s",
        "max_standby_streaming_delay": f"{settings.max_standby_delay_ms}ms",
        # WAL that was received and is read again after a restart counts as archived.
        "max_standby_archive_delay": f"{settings.max_standby_delay_ms}ms",
        "hot_standby_feedback": False,
    }


def _behaviour(settings: StandbySettings, traits: PrimaryTraits) -> dict[str, SettingValue]:
    return {
        "shared_buffers": f"{settings.shared_buffers_mb}MB",
        "shared_preload_libraries": "",
        "ssl": False,
        # These matter from the promotion on.
        "wal_level": traits.wal_level if traits.wal_level == "logical" else "replica",
        "track_commit_timestamp": traits.track_commit_timestamp,
        "synchronous_standby_names": "",
        # The log goes to the file that the server was started with.  The applier looks for
        # words like FATAL in it, so they must be English.
        "log_destination": "stderr",
        "logging_collector": False,
        "log_line_prefix": "%m [%p] %b ",
        "log_checkpoints": False,
        "lc_messages": "C",
    }


def _text(name: str, value: SettingValue) -> str:
    """A value as postgresql.conf has it (`src/backend/utils/misc/guc-file.l`)."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        return str(value)
    if any(character in value for character in "\n\r\0"):
        raise _bad_setting(name, "has a line break in its value")
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _conninfo_value(value: str) -> str:
    """A value of a libpq connection string (documentation, "Connection Strings")."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _is_int(value: SettingValue) -> bool:
    try:
        return int(value) >= 0 and not isinstance(value, float)
    except ValueError:
        return False


def _bad_setting(name: str, why: str) -> UsageError:
    return UsageError(
        Code.SETTINGS,
        f"PostgreSQL parameter {name!r} {why}",
        "remove it from the standby's settings (docs/standbys.md lists what is refused)",
    )

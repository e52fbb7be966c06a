"""What `shipper check` asks a primary, in one ordinary (not replication) connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from logship.errors import Code, LogshipError
from logship.postgres.server_errors import from_connect_failure
from shipper.settings import ShipperSettings

_SETTINGS = (
    "archive_mode",
    "fsync",
    "full_page_writes",
    "idle_replication_slot_timeout",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_level",
    "wal_sender_timeout",
)


class SlotFacts(NamedTuple):
    """Our slot, as pg_replication_slots has it."""

    slot_type: str
    wal_status: str | None
    restart_lsn: str | None
    """None: it has not kept any WAL yet."""
    active_application: str | None
    """Who streams from it now; "" when that is not ours to see, None when nobody does."""


class PrimaryFacts(NamedTuple):
    """Enough to say whether the shipper can work with this server.

    `parameters`: by name, in the units of pg_settings (wal_sender_timeout in milliseconds,
    max_slot_wal_keep_size in MB).
    """

    version_num: int
    in_recovery: bool
    role: str
    may_replicate: bool
    may_monitor: bool
    parameters: dict[str, str]
    walsenders_of_others: int
    slots_in_use: int
    slot: SlotFacts | None


def read_facts(settings: ShipperSettings) -> PrimaryFacts:
    """Ask the primary.  Raises LogshipError (PRIMARY_UNREACHABLE, PRIMARY_REFUSED, …)."""
    with asking(settings) as connection:
        return _facts(connection, settings)


@contextmanager
def asking(settings: ShipperSettings) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """An ordinary connection; what goes wrong in it is raised as LogshipError."""
    try:
        with psycopg.connect(
            settings.primary.conninfo,
            autocommit=True,
            row_factory=dict_row,
            **_connection_parameters(settings),
        ) as connection:
            yield connection
    except psycopg.OperationalError as error:
        if error.sqlstate is None:
            raise from_connect_failure(
                str(error), "the primary", needs_password=False, used_password=False
            ) from error
        raise _query_failed(error) from error
    except psycopg.Error as error:
        raise _query_failed(error) from error


def _connection_parameters(settings: ShipperSettings) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "application_name": f"{settings.application_name}_check",
        "connect_timeout": settings.primary.connect_timeout_seconds,
        # Else a server whose encoding is SQL_ASCII gives bytes for text.
        "client_encoding": "utf8",
    }
    given = psycopg.conninfo.conninfo_to_dict(settings.primary.conninfo)
    if "dbname" not in given and "service" not in given:
        parameters["dbname"] = "postgres"
    return parameters


def _query_failed(error: psycopg.Error) -> LogshipError:
    return LogshipError(
        Code.PRIMARY_REFUSED,
        f"the primary does not answer a question: {str(error).partition(chr(10))[0]}",
        "the role needs LOGIN, CONNECT on the database, and membership of pg_monitor",
    )


def _facts(
    connection: psycopg.Connection[dict[str, Any]], settings: ShipperSettings
) -> PrimaryFacts:
    role = connection.execute(
        "select current_setting('server_version_num')::int as version_num,"
        " pg_is_in_recovery() as in_recovery, rolname as role,"
        " rolreplication or rolsuper as may_replicate,"
        " pg_has_role('pg_read_all_stats', 'usage') and pg_has_role('pg_read_all_settings',"
        " 'usage') as may_monitor from pg_roles where rolname = current_user"
    ).fetchone()
    rows = connection.execute(
        "select name, setting from pg_settings where name = any(%s)", (list(_SETTINGS),)
    ).fetchall()
    walsenders = connection.execute(
        "select count(*)::int as number from pg_stat_replication"
        " where application_name is distinct from %s",
        (settings.application_name,),
    ).fetchone()
    slots = connection.execute("select count(*)::int as number from pg_replication_slots")
    slots_in_use = slots.fetchone()
    slot = connection.execute(
        "select slot_type, wal_status, restart_lsn::text, active,"
        " coalesce(application_name, '') as application_name from pg_replication_slots s"
        " left join pg_stat_replication r on r.pid = s.active_pid where slot_name = %s",
        (settings.slot_name,),
    ).fetchone()
    if role is None or walsenders is None or slots_in_use is None:
        raise LogshipError(Code.PRIMARY_REFUSED, "the primary does not know our own role")
    return PrimaryFacts(
        **role,
        parameters={row["name"]: row["setting"] for row in rows},
        walsenders_of_others=walsenders["number"],
        slots_in_use=slots_in_use["number"],
        slot=None
        if slot is None
        else SlotFacts(
            slot["slot_type"],
            slot["wal_status"],
            slot["restart_lsn"],
            slot["application_name"] if slot["active"] else None,
        ),
    )

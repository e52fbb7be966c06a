"""How much WAL a primary writes, asked or watched in one ordinary connection."""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.rows import dict_row

from logship.errors import Code, LogshipError
from shipper.commands.cost_estimate import WalRate, windows_of, windows_seen
from shipper.commands.primary_facts import asking
from shipper.settings import ShipperSettings

_SAMPLES_PER_WINDOW: Final = 5
_SHORTEST_PAUSE_SECONDS: Final = 0.02


class Measured(NamedTuple):
    rate: WalRate
    seconds: float
    """Of the time that it is the average of."""
    database_bytes: int


def since_reset(settings: ShipperSettings, max_delay_seconds: float) -> Measured:
    """What the primary counted since its statistics were reset.

    Its commits count those that only read: an upper bound.  Raises LogshipError.
    """
    with asking(settings) as connection:
        row = _one(
            connection,
            "select wal_bytes::float8 as wal_bytes,"
            " greatest(extract(epoch from now() - stats_reset), 1)::float8 as seconds,"
            " (select sum(xact_commit)::float8 from pg_stat_database) as commits,"
            " (select extract(epoch from now() - min(stats_reset))::float8 from pg_stat_database)"
            " as commit_seconds from pg_stat_wal",
        )
        seconds = float(row["seconds"])
        commits = float(row["commits"] or 0) / (float(row["commit_seconds"] or 0) or seconds)
        written = row["wal_bytes"] / seconds
        windows = windows_of(commits, max_delay_seconds)
        return Measured(
            WalRate(written, windows, _segment_bytes(connection)),
            seconds,
            _database_bytes(connection),
        )


def watched(settings: ShipperSettings, seconds: float, max_delay_seconds: float) -> Measured:
    """Watch the primary write for `seconds`.  Raises LogshipError."""
    pause_seconds = max(max_delay_seconds / _SAMPLES_PER_WINDOW, _SHORTEST_PAUSE_SECONDS)
    samples: list[tuple[float, int]] = []
    with asking(settings) as connection:
        started_at = time.monotonic()
        while not samples or samples[-1][0] < seconds:
            row = _one(
                connection,
                "select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::int8 as position",
            )
            samples.append((time.monotonic() - started_at, int(row["position"])))
            time.sleep(pause_seconds)
        took = samples[-1][0]
        return Measured(
            WalRate(
                (samples[-1][1] - samples[0][1]) / took,
                windows_seen(samples, max_delay_seconds) / took,
                _segment_bytes(connection),
            ),
            took,
            _database_bytes(connection),
        )


def _segment_bytes(connection: psycopg.Connection[dict[str, Any]]) -> int:
    row = _one(
        connection,
        "select setting::int8 as bytes from pg_settings where name = 'wal_segment_size'",
    )
    return int(row["bytes"])


def _database_bytes(connection: psycopg.Connection[dict[str, Any]]) -> int:
    # Of another database only its owner, or pg_read_all_stats, may know.
    row = _one(
        connection,
        "select coalesce(sum(pg_database_size(oid)), 0)::int8 as bytes from pg_database"
        " where has_database_privilege(oid, 'connect')"
        " or pg_has_role('pg_read_all_stats', 'usage')",
    )
    return int(row["bytes"])


def _one(connection: psycopg.Connection[dict[str, Any]], query: str) -> dict[str, Any]:
    row = connection.cursor(row_factory=dict_row).execute(query).fetchone()
    if row is None:
        raise LogshipError(Code.PRIMARY_REFUSED, "the primary does not say how much it writes")
    return row

"""What the primary is like at one LSN, to compare an opened standby with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from logship.rehearsal.site.server import Server

DIGEST_SECONDS = 900.0


@dataclass(frozen=True)
class Reference:
    """contents: count and digest of each table, by database, schema and name.  orders: as
    `inside.order` answers.  checksums: `data_checksums`.  preload: `shared_preload_libraries`."""

    lsn: str
    contents: Mapping[str, str]
    orders: Mapping[str, Mapping[str, Any]]
    checksums: str
    preload: str


def take_reference(primary: Server) -> Reference:
    """Look at a primary that nobody writes to meanwhile.  Raises LogshipError."""
    contents = contents_of(primary)
    orders = primary.ask("order")["orders"]
    ((checksums, preload),) = primary.sql(
        "select pg_catalog.current_setting('data_checksums'),"
        " pg_catalog.current_setting('shared_preload_libraries')"
    )
    # Last, and flushed: whatever the looks themselves wrote comes before.
    ((lsn,),) = primary.sql("checkpoint", "select pg_catalog.pg_current_wal_flush_lsn()::text")
    return Reference(str(lsn), contents, orders, str(checksums), str(preload))


def contents_of(server: Server) -> dict[str, str]:
    """Count and digest of each table of a server.  Raises LogshipError."""
    tables: dict[str, str] = server.ask("digest", timeout_seconds=DIGEST_SECONDS)["tables"]
    return tables

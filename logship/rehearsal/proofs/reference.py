"""What the primary is like at one LSN, to compare an opened standby with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from logship.rehearsal.site.server import Server

DIGEST_SECONDS = 900.0


class SequenceState(NamedTuple):
    """As the sequence itself has it, with its increment.  log_cnt: how many further numbers it may
    give before it has to write WAL again."""

    last_value: int
    log_cnt: int
    increment: int
    is_called: bool


class Contents(NamedTuple):
    """Of a server, by database, schema and name.  tables: count and digest of each."""

    tables: Mapping[str, str]
    sequences: Mapping[str, SequenceState]


@dataclass(frozen=True)
class Reference:
    """orders: as `inside.order` answers.  checksums: `data_checksums`.  preload:
    `shared_preload_libraries`."""

    lsn: str
    contents: Contents
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


def contents_of(server: Server) -> Contents:
    """Raises LogshipError."""
    found = server.ask("digest", timeout_seconds=DIGEST_SECONDS)
    sequences = {name: SequenceState(**state) for name, state in found["sequences"].items()}
    return Contents(found["tables"], sequences)

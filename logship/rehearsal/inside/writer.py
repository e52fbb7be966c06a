"""Commits all the time, until SIGTERM, whatever becomes of the server meanwhile.

Arguments: a connection string with its database, a table (`id` is its identity, `note` text), and
a file that gets the id of each acknowledged commit, one a line.

READY on stdout: it can be told to end.  The last line, when it was told:
{"commits": N, "longest_pause_seconds": S, "first_at": T, "last_at": T, "begun_at": T,
"ended_at": T}.  A pause is a time without an acknowledged commit, the start and the end of the
program included; times are seconds since the epoch, those of commits null without any.

A commit that the server is at when the program is told to end goes on without it: its session, of
APPLICATION_NAME, says for how long.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO

import psycopg
from psycopg import sql

READY = "ready"
"""The first line: from now on SIGTERM gets an answer."""
APPLICATION_NAME = "logship rehearsal writer"
PACE_SECONDS = 0.01
RETRY_SECONDS = 0.05
CONNECT_SECONDS = 2
_NOTE = "written while the rehearsal goes on"


class _Stopped(BaseException):
    """Told to end while the server does not answer."""


class Writer:
    """`run` until `stop`."""

    def __init__(self, conninfo: str, table: str, acknowledged: IO[str]) -> None:
        self._conninfo = conninfo
        schema, _, name = table.partition(".")
        self._insert = sql.SQL("insert into {} (note) values ({}) returning id").format(
            sql.Identifier(schema, name), sql.Literal(_NOTE)
        )
        self._acknowledged = acknowledged
        self._begun_at = time.time()
        self._last = time.monotonic()
        self._longest_pause_seconds = 0.0
        self._commits = 0
        self._first_at: float | None = None
        self._last_at: float | None = None
        self._stopped = False
        self._waits = False

    def run(self) -> None:
        with suppress(_Stopped):
            while not self._stopped:
                try:
                    with self._connection() as connection:
                        self._commit_on(connection)
                except psycopg.Error:
                    time.sleep(RETRY_SECONDS)
        self._pause_ended()

    def stop(self) -> None:
        """In a signal handler.  A commit may wait for a recovery server that never answers."""
        self._stopped = True
        if self._waits:
            raise _Stopped

    def outcome(self) -> dict[str, float | int | None]:
        return {
            "commits": self._commits,
            "longest_pause_seconds": round(self._longest_pause_seconds, 3),
            "first_at": self._first_at,
            "last_at": self._last_at,
            "begun_at": self._begun_at,
            "ended_at": time.time(),
        }

    def _commit_on(self, connection: psycopg.Connection[tuple[int]]) -> None:
        while not self._stopped:
            self._waits = True
            row = connection.execute(self._insert).fetchone()
            self._waits = False
            self._note(row[0] if row else 0)
            time.sleep(PACE_SECONDS)

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[tuple[int]]]:
        with psycopg.connect(
            self._conninfo,
            autocommit=True,
            application_name=APPLICATION_NAME,
            connect_timeout=CONNECT_SECONDS,
        ) as connection:
            try:
                yield connection
            finally:
                self._waits = False

    def _note(self, number: int) -> None:
        self._acknowledged.write(f"{number}\n")
        self._pause_ended()
        self._commits += 1
        self._last_at = time.time()
        self._first_at = self._first_at or self._last_at

    def _pause_ended(self) -> None:
        now = time.monotonic()
        self._longest_pause_seconds = max(self._longest_pause_seconds, now - self._last)
        self._last = now


def main() -> int:
    conninfo, table, file = sys.argv[1:]
    with open(file, "a", encoding="ascii", buffering=1) as acknowledged:
        writer = Writer(conninfo, table, acknowledged)

        def stop(number: int, frame: FrameType | None) -> None:
            writer.stop()

        signal.signal(signal.SIGTERM, stop)
        print(READY, flush=True)
        writer.run()
    print(json.dumps(writer.outcome()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The workload: clients that remember every commit that the primary acknowledged to them."""

from __future__ import annotations

import random
import threading
from typing import NamedTuple

import psycopg

from logship.lsn import Lsn

ACCOUNTS = 40

SCHEMA = """
create table journal (
    writer int, seq int, padding text not null, digest text not null,
    primary key (writer, seq));
create index on journal (digest);
create table account (id int primary key, balance int not null);
insert into account select n, 0 from generate_series(1, 40) n;
"""

_INSERT = """
insert into journal
select %(writer)s, %(seq)s, repeat(md5(%(seed)s::text), %(size)s),
       md5(%(writer)s::text || ':' || %(seq)s::text)
"""


class Acknowledged(NamedTuple):
    """A commit that the primary called done.

    flushed: the primary's flushed WAL position, asked for afterwards: the commit lies before
    it.  None if the primary was gone by then.
    """

    writer: int
    seq: int
    flushed: Lsn | None


class Writer(threading.Thread):
    """Commits 1, 2, 3, … under its number until `stop` is set, over lost connections.

    After a lost connection it looks which of its commits came through, and goes on from
    there: so its numbers have no holes, and any server's state is a prefix of them.
    """

    def __init__(self, number: int, dsn: str, seed: int, stop: threading.Event) -> None:
        super().__init__(name=f"writer-{number}")
        self.number = number
        self.acknowledged: list[Acknowledged] = []
        self.failure: BaseException | None = None
        self._dsn = dsn
        self._dice = random.Random(f"{seed}/{number}")
        self._stop_writing = stop
        self._warned = False

    def run(self) -> None:
        try:
            while not self._stop_writing.is_set():
                try:
                    self._write()
                except psycopg.Error:
                    self._stop_writing.wait(0.05)
        except BaseException as error:
            self.failure = error

    def _write(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True, connect_timeout=5) as connection:
            connection.add_notice_handler(self._notice)
            row = connection.execute(
                "select coalesce(max(seq), 0) from journal where writer = %s", (self.number,)
            ).fetchone()
            assert row is not None
            seq = row[0] + 1
            while not self._stop_writing.is_set():
                self._commit(connection, seq)
                seq += 1

    def _commit(self, connection: psycopg.Connection[tuple[object, ...]], seq: int) -> None:
        self._warned = False
        one, other = sorted(self._dice.sample(range(1, ACCOUNTS + 1), 2))
        amount = self._dice.randint(-100, 100)
        # Some commits take a segment's worth of pages, most fit in one.
        size = 4000 if self._dice.random() < 0.02 else self._dice.randint(1, 40)
        with connection.transaction():
            connection.execute(
                _INSERT,
                {"writer": self.number, "seq": seq, "seed": seq, "size": size},
            )
            change = "update account set balance = balance + %s where id = %s"
            connection.execute(change, (amount, one))
            connection.execute(change, (-amount, other))
        if self._warned:
            return  # "committed locally, but might not have been replicated"
        flushed: Lsn | None = None
        try:
            row = connection.execute("select pg_current_wal_flush_lsn()::text").fetchone()
            assert row is not None
            flushed = Lsn.parse(str(row[0]))
        finally:
            self.acknowledged.append(Acknowledged(self.number, seq, flushed))

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        self._warned = self._warned or notice.severity_nonlocalized == "WARNING"


class Observer(threading.Thread):
    """Asks the primary what Logship reported as durable; keeps the furthest."""

    def __init__(self, dsn: str, stop: threading.Event) -> None:
        super().__init__(name="observer")
        self.told_durable = Lsn(0)
        self._dsn = dsn
        self._stop_looking = stop

    def run(self) -> None:
        while not self._stop_looking.is_set():
            try:
                self._look()
            except psycopg.Error:
                self._stop_looking.wait(0.1)

    def _look(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True, connect_timeout=5) as connection:
            while not self._stop_looking.wait(0.05):
                rows = connection.execute(
                    "select flush_lsn::text from pg_stat_replication"
                    " where application_name = 'logship_main' and flush_lsn is not null"
                    " union all select restart_lsn::text from pg_replication_slots"
                    " where slot_name = 'logship_main' and restart_lsn is not null"
                ).fetchall()
                for (told,) in rows:
                    self.told_durable = max(self.told_durable, Lsn.parse(told))

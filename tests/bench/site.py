"""The stage of every measure: one primary, native standbys, Logship, and the workload.

All servers are one installation with one configuration, all clients and receivers use unix
sockets, so a ratio compares roads and nothing else.  What is made within a `with` is gone
after it, its replication slot too: nothing that is not measured holds WAL back or uses CPU.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, LiteralString, NamedTuple, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from logship.lsn import Lsn
from tests.bench import machine
from tests.bench.sizes import Sizes
from tests.support.pair import BucketRoad, Pair
from tests.support.processes import make_server_directory, run_as_server, server_account
from tests.support.servers import PrimaryServer
from tests.support.waiting import free_port, wait_until

INSTANCE = "main"
BY_BUCKET = "far"
"""The instance whose two sides meet in a bucket only."""
LOGSHIP = "logship_main"
NATIVE = "native"
"""The names under which the primary knows its receivers."""

PATIENCE_SECONDS = 300.0
LOOK_SECONDS = 0.01
"""Between two looks at a position: the resolution of everything that takes seconds."""

_APPLIER = """
directory = "{directory}/applier"
[link]
listen = "tcp://127.0.0.1:{link_port}"
secret_key_file = "{directory}/keys/applier.key"
[api]
socket = "{directory}/run/applier.sock"
[wal_server]
socket_directory = "{directory}/run/wal"
[postgres]
installations = ["{installation}"]
run_as = "{run_as}"
[standby]
shared_buffers_mb = 256
[standby.settings]
"""

T = TypeVar("T")


class Generated(NamedTuple):
    """WAL that a workload wrote."""

    start: Lsn
    end: Lsn
    seconds: float

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


class LogshipPair(Pair):
    """Real `shipper run` and `applier run`, with the defaults of their settings."""

    def __init__(
        self,
        directory: Path,
        site: Site,
        instance: str = INSTANCE,
        bucket: BucketRoad | None = None,
    ) -> None:
        self.site = site
        self.instance = instance
        super().__init__(directory, bucket=bucket)

    def write_applier_settings(self) -> None:
        account = server_account()
        text = _APPLIER.format(
            directory=self.directory,
            link_port=self.link_port,
            installation=self.site.installation,
            run_as=account.pw_name if account is not None else "",
        )
        text += "".join(f"{k} = '{v}'\n" for k, v in self.site.server_settings.items())
        if self.bucket is not None:
            text += self.bucket.section(self.bucket.applier)
        self.applier.settings.write_text(text + "".join(self.instances.values()))

    @property
    def standby_conninfo(self) -> str:
        return make_conninfo(
            host=str(self.directory / "run" / "standby" / self.instance),
            port=self.standby_ports[self.instance],
            user="postgres",
            dbname="postgres",
        )

    def stop_standby(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the standby's server; an applier that runs starts it again."""
        self.stop_standby_of(self.instance, number)

    def stop_standby_of(self, name: str, number: signal.Signals = signal.SIGINT) -> None:
        pid = self.standby_pid(name)
        os.kill(pid, number)
        wait_until(lambda: not Path(f"/proc/{pid}/cwd").exists(), 60, "end of the standby")

    def check_installation(self) -> None:
        """The standby must run what the native one runs, or the ratios compare servers."""
        program = Path(f"/proc/{self.standby_pid(self.instance)}/exe").readlink()
        if program != (self.site.installation / "bin" / "postgres").resolve():
            raise RuntimeError(f"Logship's standby runs {program}, not {self.site.installation}")


class Site:
    """Use as a context manager: it starts the primary and ends all there is.

    installation: of PostgreSQL, with bin/.  tools: finds client programs.  say: shows progress.
    """

    def __init__(
        self,
        directory: Path,
        installation: Path,
        find_tool: Callable[[str], Path],
        sizes: Sizes,
        say: Callable[[str], None],
    ) -> None:
        self.directory = directory
        self.installation = installation
        self.find_tool = find_tool
        self.sizes = sizes
        self.say = say
        self.server_settings: Mapping[str, str] = {
            "max_wal_size": sizes.max_wal_size,
            "min_wal_size": sizes.min_wal_size,
            "checkpoint_timeout": "1h",
            "autovacuum": "off",
            "jit": "off",
        }
        self._made = 0
        self._source_rows = 0
        self.primary = PrimaryServer.create(
            installation,
            directory / "primary",
            settings={
                **self.server_settings,
                "shared_buffers": "256MB",
                "wal_keep_size": "64MB",
                "log_replication_commands": "off",
            },
        )

    def __enter__(self) -> Site:
        try:
            self.primary.start()
        except BaseException:
            self.primary.destroy()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.primary.destroy()

    # --- the primary ----------------------------------------------------------------------

    def conninfo(self, server: PrimaryServer | None = None) -> str:
        """Over the unix socket, as every client here connects."""
        server = server or self.primary
        return server.dsn(host=str(server.socket_directory))

    def sql(self, sql: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        return self.primary.execute(sql, *parameters)

    def flush_lsn(self) -> Lsn:
        return Lsn.parse(str(self.sql("select pg_current_wal_flush_lsn()::text")[0][0]))

    def wait_attached(self, application_name: str) -> None:
        """The receiver streams, and has all there is."""
        wait_until(
            lambda: self.sql(
                "select 1 from pg_stat_replication where application_name = %s"
                " and state = 'streaming' and sent_lsn >= pg_current_wal_flush_lsn()",
                application_name,
            ),
            PATIENCE_SECONDS,
            f"{application_name} streams",
        )

    # --- the workload ---------------------------------------------------------------------

    def prepare_source(self) -> None:
        """The unlogged table that WAL is generated from: rows of 1 kB that compress as JSON
        does (zstd 0.25, lz4 0.44).  It is in no WAL and no base backup."""
        rows = self.sizes.wal_rows
        if self._source_rows == rows:
            return
        self.say(f"making the source of WAL, {rows} rows")
        distinct = min(rows, 100_000)
        self.sql("drop table if exists source")
        self.sql(
            "create unlogged table source as select i as id, (select string_agg("
            """ format('"field_%s":"%s","status":"shipped",', n,"""
            " substr(md5((i * 20 + n)::text), 1, 16)), '')"
            f" from generate_series(1, 20) as n) as document from generate_series(1, {distinct})"
            " as i"
        )
        # Repeats are 100 MB apart, where no compressor of a stream sees them.
        while (missing := rows - distinct) > 0:
            step = min(missing, 100_000)
            self.sql("insert into source select id, document from source limit %s", step)
            distinct += step
        self._source_rows = rows

    def generate(self, table: LiteralString = "generated") -> Generated:
        """Write the workload's WAL once."""
        start = self.flush_lsn()
        started_at = time.monotonic()
        self.sql(f"create table {table} as select * from source")
        seconds = time.monotonic() - started_at
        return Generated(start, self.flush_lsn(), seconds)

    def forget(self, *tables: LiteralString) -> None:
        """Drop what was generated and let its WAL segments be used again."""
        for table in tables or ("generated",):
            self.sql(f"drop table if exists {table}")
        self.sql("checkpoint")

    def make_ready(self) -> None:
        """See `machine.make_ready`."""
        machine.make_ready(self.sizes.touch_bytes)

    # --- receivers ------------------------------------------------------------------------

    def new_directory(self, name: str) -> Path:
        """One that every user can enter; named shortly, as sockets lie in it."""
        self._made += 1
        path = self.directory / f"{name}-{self._made}"
        path.mkdir(mode=0o755)
        path.chmod(0o755)
        return path

    def base_backup(self, target: Path, *options: str) -> None:
        """pg_basebackup of the primary, without WAL."""
        command: list[str | Path] = [
            *(self.find_tool("pg_basebackup"), "-D", target, "-X", "none", "-c", "fast"),
            *("-h", self.primary.socket_directory, "-p", str(self.primary.port)),
            *("-U", "postgres", "--no-password", *options),
        ]
        run_as_server(command, target.parent)

    @contextlib.contextmanager
    def native_standby(self) -> Iterator[PrimaryServer]:
        """A standby that streams from the primary; started and caught up."""
        directory = self.new_directory("native")
        server = PrimaryServer(self.installation, directory / "server", free_port())
        self.sql("select pg_create_physical_replication_slot(%s, true)", NATIVE)
        try:
            make_server_directory(server.directory, 0o755)
            self.base_backup(server.data, "--no-sync", "--no-manifest")
            self.configure_native(server, slot=NATIVE)
            server.start()
            self.wait_attached(NATIVE)
            yield server
        finally:
            server.destroy()
            self._drop_slot(NATIVE)
            shutil.rmtree(directory, ignore_errors=True)

    def configure_native(self, server: PrimaryServer, *, slot: str = "") -> None:
        """Make a copy of the primary a standby of it."""
        server.configure(
            {
                "port": str(server.port),
                "unix_socket_directories": str(server.socket_directory),
                "primary_conninfo": make_conninfo(self.conninfo(), application_name=NATIVE),
                "primary_slot_name": slot,
                "synchronous_standby_names": "",
                "max_standby_streaming_delay": "0",
            }
        )
        run_as_server(["touch", server.data / "standby.signal"], server.directory)

    @contextlib.contextmanager
    def logship(
        self, *, protection: str = "async", more: str = "", seeded: bool = True
    ) -> Iterator[LogshipPair]:
        """An applier and a shipper; unless `seeded` is false, their standby has caught up."""
        with self._pair(LogshipPair(self.new_directory("l"), self)) as pair:
            pair.add(INSTANCE, more=more)
            pair.applier.start()
            pair.shipper(INSTANCE, self.conninfo(), protection=protection).start()
            if seeded:
                self._wait_caught_up(pair)
            yield pair

    @contextlib.contextmanager
    def logship_by_bucket(self, bucket: BucketRoad, shipper: str = "") -> Iterator[LogshipPair]:
        """An applier and a shipper that know of each other only by `bucket`, caught up; the
        instance is `BY_BUCKET`.  shipper: more of the shipper's `[bucket]`."""
        made = LogshipPair(self.new_directory("b"), self, BY_BUCKET, bucket)
        with self._pair(made) as pair:
            pair.add(BY_BUCKET, link=False)
            pair.applier.start()
            pair.shipper(BY_BUCKET, self.conninfo(), link=None, bucket=shipper).start()
            self._wait_caught_up(pair)
            yield pair

    @contextlib.contextmanager
    def _pair(self, pair: LogshipPair) -> Iterator[LogshipPair]:
        try:
            yield pair
        except BaseException:
            self.keep_logs(pair)
            raise
        finally:
            pair.destroy()
            self._drop_slot(f"logship_{pair.instance}")
            shutil.rmtree(pair.directory, ignore_errors=True)

    def _wait_caught_up(self, pair: LogshipPair) -> None:
        pair.wait_following(pair.instance)
        pair.check_installation()
        self.wait_attached(f"logship_{pair.instance}")
        self.wait_replayed(pair.standby_conninfo, self.flush_lsn())

    def keep_logs(self, pair: LogshipPair) -> None:
        """Show the last words of its processes: their logs are about to be removed."""
        for process in (pair.applier, *pair.shippers.values()):
            for line in process.last_words(process.program, 15):
                print(f"  {line}", file=sys.stderr)

    def _drop_slot(self, name: str) -> None:
        def dropped() -> bool:
            try:
                self.sql(
                    "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                    " where slot_name = %s",
                    name,
                )
            except psycopg.errors.ObjectInUse:
                self.sql(
                    "select pg_terminate_backend(active_pid) from pg_replication_slots"
                    " where slot_name = %s and active",
                    name,
                )
                return False
            return True

        if self.primary.is_running:
            wait_until(dropped, 60, f"slot {name} is gone")

    # --- positions of a standby -----------------------------------------------------------

    def wait_received(self, conninfo: str, target: Lsn) -> float:
        """Wait until the standby has flushed `target`; returns the time (monotonic)."""
        return _wait_position(conninfo, "pg_last_wal_receive_lsn()", target)

    def wait_replayed(self, conninfo: str, target: Lsn) -> float:
        """Wait until the standby has replayed `target`, starting server or not."""
        return _wait_position(conninfo, "pg_last_wal_replay_lsn()", target)

    def restart_point(self, conninfo: str) -> None:
        """Have a standby that has replayed a checkpoint use its WAL segments again."""
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("checkpoint")

    def warm_up(self, standby_conninfo: str) -> None:
        """Once through the workload: from here on the standby recycles segments."""
        generated = self.generate()
        self.wait_replayed(standby_conninfo, generated.end)
        self.forget()
        self.wait_replayed(standby_conninfo, self.flush_lsn())
        self.restart_point(standby_conninfo)


def _wait_position(conninfo: str, function: LiteralString, target: Lsn) -> float:
    deadline = time.monotonic() + PATIENCE_SECONDS
    seen: object = None
    while time.monotonic() < deadline:
        try:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                while time.monotonic() < deadline:
                    row = connection.execute(f"select {function}::text").fetchone()
                    now = time.monotonic()
                    seen = row[0] if row is not None else None
                    if seen is not None and Lsn.parse(str(seen)) >= target:
                        return now
                    time.sleep(LOOK_SECONDS)
        except psycopg.OperationalError as error:
            seen = error
            time.sleep(LOOK_SECONDS)
    raise TimeoutError(f"{function} did not reach {target} (last: {seen})")

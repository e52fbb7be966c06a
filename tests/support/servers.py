"""A real PostgreSQL server that a test starts, kills, clones and promotes."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, LiteralString

import psycopg
from psycopg.conninfo import make_conninfo

from logship.postgres.postmaster import remove_shared_memory
from logship.postgres.private_paths import PrivatePaths
from tests.support.clusters import ClusterTemplates, initialise
from tests.support.processes import (
    copy_tree,
    give_to_server,
    kill_with_children,
    make_server_directory,
    start_as_server,
)
from tests.support.waiting import free_port, wait_until

START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 60

StopMode = Literal["smart", "fast", "immediate"]
_STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

DEFAULT_SETTINGS: Mapping[str, str] = {
    "wal_level": "replica",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_connections": "50",
    "shared_buffers": "16MB",
    "fsync": "on",
    # In its own directory: in /dev/shm it would outlive a run that is killed.
    "dynamic_shared_memory_type": "mmap",
    "log_min_messages": "info",
    "log_replication_commands": "on",
    "log_line_prefix": "%m [%p] %b ",
}

# What a copy of a running server must not take along: its process, WAL, slots and memory.
_NOT_IN_A_CLONE = frozenset(
    {"postmaster.pid", "postmaster.opts", "pg_wal", "pg_replslot", "pg_dynshmem"}
)


@dataclass
class PrimaryServer:
    """One cluster in ``directory`` (``data``, ``server.log``, the unix socket) and its server.

    Made by ``create`` and then stopped; ``destroy`` stops it and removes the directory, its
    clones included. Everyone is trusted on the unix socket and on 127.0.0.1, for replication
    as well.
    """

    installation: Path
    directory: Path
    port: int
    clones: list[PrimaryServer] = field(default_factory=list)
    private_paths: PrivatePaths | None = None
    """Directories that it alone sees, from its next start on."""
    _process: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(
        cls,
        installation_dir: Path,
        directory: Path,
        *,
        wal_segsize_mb: int = 16,
        settings: Mapping[str, str] | None = None,
        initdb_args: tuple[str, ...] = (),
        templates: ClusterTemplates | None = None,
    ) -> PrimaryServer:
        """Make a new cluster in ``directory``, which must not exist; it is not started.

        ``settings`` come after ``DEFAULT_SETTINGS``. With ``templates`` the data directory
        is a copy with its own system identifier, which is faster than initdb.
        """
        make_server_directory(directory, 0o755)
        server = cls(installation_dir, directory, free_port())
        make = templates.create if templates is not None else initialise
        make(installation_dir, server.data, wal_segsize_mb=wal_segsize_mb, initdb_args=initdb_args)
        server.configure({**DEFAULT_SETTINGS, **server._addresses(), **(settings or {})})
        return server

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    @property
    def socket_directory(self) -> Path:
        """Where the unix socket is."""
        return self.directory

    @property
    def log(self) -> str:
        """All that the server has logged."""
        path = self.directory / "server.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    @property
    def is_running(self) -> bool:
        """Whether the postmaster lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id; the server must be running."""
        if self._process is None:
            raise RuntimeError(f"the server in {self.directory} is not running")
        return self._process.pid

    def configure(self, settings: Mapping[str, str]) -> None:
        """Append to postgresql.conf; it takes effect at the next start or reload."""
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            for name, value in settings.items():
                quoted = value.replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def start(self, *, wait: bool = True) -> None:
        """Start the server and wait until it accepts connections (a cold standby: until up)."""
        if self.is_running:
            raise RuntimeError(f"the server in {self.directory} is already running")
        command: list[str | Path] = [self.installation / "bin" / "postgres", "-D", self.data]
        with (self.directory / "server.log").open("ab") as log:
            self._process = start_as_server(command, self.directory, log, self.private_paths)
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait for a start without ``wait`` to finish; ``RuntimeError`` if the server ended."""
        wait_until(self._is_ready, START_TIMEOUT_SECONDS, f"start of {self.directory.name}")

    def stop(self, mode: StopMode = "fast") -> None:
        """Shut the server down and wait for its end; nothing happens if it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(_STOP_SIGNALS[mode])
        try:
            process.wait(timeout=STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            kill_with_children(process)
            raise

    def kill(self) -> None:
        """SIGKILL every process of the server, as a crash of the machine would."""
        process, self._process = self._process, None
        if process is not None:
            kill_with_children(process)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop, then start."""
        self.stop(mode)
        self.start()

    def reload(self) -> None:
        """Have the server read its configuration again."""
        self.execute("select pg_reload_conf()")

    def promote(self) -> None:
        """End a standby's recovery and wait until it takes writes, on a new timeline."""
        if self.execute("select pg_promote(true, %s)", START_TIMEOUT_SECONDS) != [(True,)]:
            raise TimeoutError(f"the server in {self.directory} did not open in time")

    def dsn(self, dbname: str = "postgres", **parameters: str | int) -> str:
        """A connection string over TCP; ``parameters`` override and add (``host=...``)."""
        address = {"host": "127.0.0.1", "port": str(self.port), "user": "postgres"}
        given = {name: str(value) for name, value in parameters.items()}
        return make_conninfo("", **{**address, "dbname": dbname, **given})

    def execute(self, sql: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement in autocommit and return its rows, if it has any."""
        with psycopg.connect(
            self.dsn(), autocommit=True, connect_timeout=10, client_encoding="utf8"
        ) as connection:
            cursor = connection.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def current_wal_lsn(self) -> str:
        """The end of the flushed WAL; on a standby, of the replayed."""
        rows = self.execute(
            "select case when pg_is_in_recovery() then pg_last_wal_replay_lsn()"
            " else pg_current_wal_flush_lsn() end::text"
        )
        return str(rows[0][0])

    def clone_as_standby(
        self, directory: Path, *, settings: Mapping[str, str] | None = None
    ) -> PrimaryServer:
        """Make a standby of this running server in ``directory`` and start it.

        It streams natively through a slot of its own, named like ``directory``. It ends with
        this server's ``destroy``.
        """
        slot = directory.name.replace("-", "_")
        self.execute("select pg_create_physical_replication_slot(%s, true)", slot)
        clone = PrimaryServer(self.installation, directory, free_port())
        make_server_directory(directory, 0o755)
        self.clones.append(clone)
        self._copy_data_to(clone.data)
        conninfo = make_conninfo(self.dsn(), application_name=slot)
        clone.configure({"primary_conninfo": conninfo, "primary_slot_name": slot})
        clone.configure({**clone._addresses(), **(settings or {})})
        _write_as_server(clone.data / "standby.signal", "")
        clone.start()
        return clone

    def destroy(self) -> None:
        """End the server and its clones without ceremony and remove their directories."""
        for clone in self.clones:
            clone.destroy()
        self.clones.clear()
        self.kill()
        remove_shared_memory(self.data)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _addresses(self) -> dict[str, str]:
        return {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.socket_directory),
        }

    def _is_ready(self) -> bool:
        if not self.is_running:
            raise RuntimeError(f"the server in {self.directory} ended:\n{self.log[-4000:]}")
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        # A pid file that an earlier, killed postmaster left says "ready" as well.
        ours = len(lines) >= 8 and lines[0] == str(self.pid)
        return ours and lines[7].strip() in ("ready", "standby")

    def _copy_data_to(self, destination: Path) -> None:
        old = int((self.data / "PG_VERSION").read_text(encoding="ascii")) < 15
        begin: LiteralString
        end: LiteralString
        if old:
            begin = "select pg_start_backup('clone', true, false)"
            end = "select labelfile from pg_stop_backup(false)"
        else:
            begin = "select pg_backup_start('clone', true)"
            end = "select labelfile from pg_backup_stop()"
        # The backup lasts as long as the session that began it.
        with psycopg.connect(self.dsn(), autocommit=True, client_encoding="utf8") as connection:
            connection.execute(begin)
            copy_tree(self.data, destination, _NOT_IN_A_CLONE)
            row = connection.execute(end).fetchone()
        if row is None:
            raise RuntimeError("the backup ended without a label")
        _write_as_server(destination / "backup_label", row[0])


def _write_as_server(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
    give_to_server(path)

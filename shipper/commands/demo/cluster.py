"""One of the clusters that the demo protects and loses: its primary, made for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import psycopg

from logship.errors import Code, LogshipError
from logship.postgres.installations import Installation
from logship.postgres.postmaster import remove_shared_memory
from logship.postgres.process import Server, Wait
from logship.postgres.run_as import RunAs

_CONFIGURATION = """
listen_addresses = ''
unix_socket_directories = '{sockets}'
port = {port}
wal_level = replica
max_wal_senders = 10
shared_buffers = 32MB
# In its own directory: POSIX shared memory would outlive the SIGKILL.
dynamic_shared_memory_type = mmap
"""


class Cluster:
    """An instance called `name`, and its primary in `directory`, which `start` makes."""

    def __init__(
        self,
        name: str,
        installation: Installation,
        run_as: RunAs,
        directory: Path,
        *,
        port: int,
        standby_port: int,
    ) -> None:
        self.name = name
        self.installation = installation
        self.directory = directory
        self.port = port
        self.standby_port = standby_port
        self._run_as = run_as
        self._data = directory / "data"
        self._server = Server(installation, self._data, run_as)

    def conninfo(self, user: str = "postgres") -> str:
        return f"host={self.directory} port={self.port} user={user} dbname=postgres"

    def start(self) -> None:
        """initdb, start, and the role that the shipper uses.  Raises LogshipError."""
        self.directory.mkdir(mode=0o700)
        self._run_as.chown(self.directory)
        made = subprocess.run(
            [
                self.installation.bin_dir / "initdb",
                *("-D", self._data, "-U", "postgres", "--auth", "trust", "--no-sync"),
                *("--locale", "C", "--encoding", "UTF8"),
            ],
            cwd=self.directory,
            capture_output=True,
            check=False,
            **self._run_as.subprocess_arguments(),
        )
        if made.returncode != 0:
            said = made.stderr.decode("utf-8", "replace").strip()
            raise LogshipError(Code.STANDBY_FAILED, f"initdb failed: {said}")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(_CONFIGURATION.format(sockets=self.directory, port=self.port))
        self._server.start(
            config_file=self._data / "postgresql.conf",
            hba_file=self._data / "pg_hba.conf",
            log_file=self.directory / "log",
            timeout_seconds=30,
            wait=Wait.READY,
        )
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            connection.execute("create role logship login replication")
            connection.execute("grant pg_monitor to logship")

    def make_commits_wait(self) -> None:
        """Protection `sync`: the primary's side of it."""
        shipper = f"logship_{self.name.replace('-', '_')}"
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            connection.execute(f"alter system set synchronous_standby_names = '{shipper}'")
            connection.execute("select pg_reload_conf()")

    def commits_wait(self) -> bool:
        """Whether the primary says that commits wait for the shipper."""
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            found = connection.execute(
                "select 1 from pg_stat_replication where sync_state in ('sync', 'quorum')"
            )
            return found.fetchone() is not None

    def kill(self) -> None:
        """SIGKILL to the postmaster and all of its children at once."""
        pid = self._server.running_pid()
        if pid is None:
            return
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in [pid, *map(int, children)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)

    def stop(self) -> None:
        """Stop it if it runs; what a killed one left outside of `directory` is removed."""
        with contextlib.suppress(LogshipError):
            self._server.stop("immediate")
        remove_shared_memory(self._data)

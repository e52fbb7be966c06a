"""Where the demo happens: a temporary directory, a primary, a shipper and an applier."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psycopg

from logship.applier_client import ApplierClient
from logship.bucket.keys import Keys, Place
from logship.errors import Code, LogshipError, UsageError
from logship.identity import Incarnation
from logship.link.keys import generate
from logship.lsn import Lsn
from logship.objects import ObjectStore
from logship.objects.opening import open_store
from logship.postgres.installations import Installation, choose, discover
from logship.postgres.postmaster import remove_shared_memory
from logship.postgres.process import Server, Wait
from logship.postgres.run_as import RunAs
from logship.settings_bucket import BucketSettings
from logship.status import InstanceStatus
from shipper.commands.demo.s3_server import PORTS as S3_PORTS
from shipper.commands.demo.s3_server import S3Server
from shipper.commands.demo.settings import MAX_DELAY_SECONDS, settings_of_both
from shipper.destinations.bucket.chain import look

INSTANCE = "demo"
BUCKET = "logship-demo"
SEGMENT_BYTES = 16 << 20
"""What initdb makes by default."""
CACHE_VARIABLE = "LOGSHIP_POSTGRES_CACHE"
STOP_SECONDS = 10.0

_PRIMARY_CONFIGURATION = """
listen_addresses = ''
unix_socket_directories = '{sockets}'
port = {port}
wal_level = replica
max_wal_senders = 10
shared_buffers = 32MB
# In its own directory: POSIX shared memory would outlive the SIGKILL.
dynamic_shared_memory_type = mmap
"""


def find_installation(configured: Sequence[Path], major: int | None, run_as: RunAs) -> Installation:
    """The PostgreSQL to show: `major`, or the newest there is.

    Looks where the applier looks, and where `make postgres` puts servers.
    Raises LogshipError(NO_INSTALLATION).
    """
    found = discover([*configured, *_caches()], run_as=run_as)
    fitting = [one for one in found if major in (None, one.major)]
    if not fitting:
        return choose(found, major or 18, 0)  # raises, with the list of what there is
    return max(fitting, key=lambda one: one.version_num)


def _caches() -> list[Path]:
    named = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    places = [
        Path(named) if named else None,
        Path("/var/cache/logship/postgres"),
        Path(home).expanduser() / "logship" / "postgres",
    ]
    return [place for place in places if place is not None and place.is_dir()]


def server_account() -> RunAs:
    """Who runs the demo's servers: as root `postgres`, or `nobody` where there is none."""
    try:
        return RunAs.of(None)
    except UsageError:
        return RunAs.of("nobody")


class Site:
    """Everything that the demo starts.  `close` stops it all and removes it."""

    def __init__(
        self, installation: Installation, run_as: RunAs, protection: str, transport: str = "link"
    ) -> None:
        """transport: "link", or "s3": then `start_s3_server` comes before `start_processes`."""
        self.installation = installation
        self.protection = protection
        self.transport = transport
        self._run_as = run_as
        self._port, self._standby_port, self._link_port = _free_ports(3)
        self._directory = Path(tempfile.mkdtemp(prefix="logship-demo-"))
        self._directory.chmod(0o711)
        self._sockets = self._directory / "primary"
        self._data = self._sockets / "data"
        self.primary = Server(installation, self._data, run_as)
        self.client = ApplierClient(self._directory / "run" / "applier.sock")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._s3_server: S3Server | None = None

    # --- the primary ----------------------------------------------------------------------

    def conninfo(self, user: str = "postgres") -> str:
        return f"host={self._sockets} port={self._port} user={user} dbname=postgres"

    def standby_conninfo(self) -> str:
        sockets = self._directory / "run" / "standby" / INSTANCE
        return f"host={sockets} port={self._standby_port} user=postgres dbname=postgres"

    def start_primary(self) -> None:
        """initdb, start, and the role that the shipper uses.  Raises LogshipError."""
        self._sockets.mkdir(mode=0o700)
        self._run_as.chown(self._sockets)
        made = subprocess.run(
            [
                self.installation.bin_dir / "initdb",
                *("-D", self._data, "-U", "postgres", "--auth", "trust", "--no-sync"),
                *("--locale", "C", "--encoding", "UTF8"),
            ],
            cwd=self._sockets,
            capture_output=True,
            check=False,
            **self._run_as.subprocess_arguments(),
        )
        if made.returncode != 0:
            said = made.stderr.decode("utf-8", "replace").strip()
            raise LogshipError(Code.STANDBY_FAILED, f"initdb failed: {said}")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(_PRIMARY_CONFIGURATION.format(sockets=self._sockets, port=self._port))
        self.primary.start(
            config_file=self._data / "postgresql.conf",
            hba_file=self._data / "pg_hba.conf",
            log_file=self._sockets / "log",
            timeout_seconds=30,
            wait=Wait.READY,
        )
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            connection.execute("create role logship login replication")
            connection.execute("grant pg_monitor to logship")

    def make_commits_wait(self) -> None:
        """Protection `sync`: the primary's side of it."""
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            connection.execute(f"alter system set synchronous_standby_names = 'logship_{INSTANCE}'")
            connection.execute("select pg_reload_conf()")

    def commits_wait(self) -> bool:
        """Whether the primary says that commits wait for the shipper."""
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            found = connection.execute(
                "select 1 from pg_stat_replication where sync_state in ('sync', 'quorum')"
            )
            return found.fetchone() is not None

    def kill_primary(self) -> None:
        """SIGKILL to the postmaster and all of its children at once."""
        pid = self.primary.running_pid()
        if pid is None:
            return
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in [pid, *map(int, children)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)

    # --- the road, and the two processes --------------------------------------------------

    def start_s3_server(self) -> None:
        """What lies between the two with transport `s3`.  Raises LogshipError."""
        self._s3_server = S3Server(self._directory / "s3", _free_ports(S3_PORTS))
        self._s3_server.start()
        self._s3_server.make_bucket(BUCKET)

    def start_processes(self) -> None:
        """Keys, settings, applier, shipper."""
        directory = self._directory
        server = self._s3_server
        for name in ("applier", "shipper"):
            generate(directory / "keys", name)
        texts = settings_of_both(
            self.transport,
            directory=directory,
            instance=INSTANCE,
            protection=self.protection,
            sockets=self._sockets,
            port=self._port,
            link_port=self._link_port,
            endpoint_url=server.endpoint_url if server is not None else "",
            standby_port=self._standby_port,
            installation=self.installation.bin_dir.parent,
            run_as=self._run_as.name if self._run_as.changes else "",
        )
        environment = {**os.environ, **(server.owner.environment if server is not None else {})}
        (directory / "run").mkdir(mode=0o711)
        for name, text in texts.items():
            settings = directory / f"{name}.toml"
            settings.write_text(text)
            with (directory / f"{name}.log").open("wb") as log:
                program = f"from {name}.commands import main; raise SystemExit(main())"
                self._processes[name] = subprocess.Popen(
                    [sys.executable, "-c", program, "run", "--config", settings],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    # Ctrl-C is for the demo alone, which then stops them in order.
                    start_new_session=True,
                )

    async def wait_fetched(self) -> None:
        """With a bucket: until what the shipper had read is uploaded, and the applier has it.

        A promotion uses what is on the recovery server, and the bucket is not.
        """
        if self._s3_server is None:
            return
        store = await asyncio.to_thread(self._open_bucket, self._s3_server)
        try:
            end = await asyncio.to_thread(_end_of_log, store)
            while True:
                fetched = partial(_has, end)
                await self.wait_for("all of the bucket in the applier's store", 30, fetched)
                await asyncio.sleep(2 * MAX_DELAY_SECONDS)
                before, end = end, await asyncio.to_thread(_end_of_log, store)
                if end == before:
                    return
        finally:
            store.close()

    @staticmethod
    def _open_bucket(server: S3Server) -> ObjectStore:
        os.environ.update(server.owner.environment)
        return open_store(BucketSettings(url=f"s3://{BUCKET}", endpoint_url=server.endpoint_url))

    async def wait_for(self, what: str, seconds: float, ready: object = None) -> InstanceStatus:
        """Wait until the instance's status satisfies `ready(status)`.

        Raises LogshipError with the end of both logs when it does not, or a process ends.
        """
        assert callable(ready)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while loop.time() < deadline:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise self._failed(f"the {name} ended while waiting for {what}")
            with contextlib.suppress(LogshipError):
                status = await asyncio.to_thread(self.client.instance, INSTANCE)
                if ready(status):
                    return status
            await asyncio.sleep(0.05)
        raise self._failed(f"no {what} within {seconds:.0f} s")

    def _failed(self, what: str) -> LogshipError:
        logs = []
        for name in self._processes:
            lines = (self._directory / f"{name}.log").read_text(errors="replace").splitlines()
            logs += [f"{name}: {line}" for line in lines[-8:]]
        return LogshipError(Code.STANDBY_FAILED, "\n".join([what, *logs]))

    # --- the end --------------------------------------------------------------------------

    def close(self) -> None:
        """Stop whatever runs, remove everything.

        Raises LogshipError if something stays, and says what.
        """
        for name in ("shipper", "applier"):
            process = self._processes.pop(name, None)
            if process is not None:
                _stop(process)
        if self._s3_server is not None:
            self._s3_server.close()
        deadline = time.monotonic() + STOP_SECONDS
        while self._directory.exists():
            # An applier that had to be killed may have been starting a server.
            for data in self._directory.glob("applier/instances/*/*/data"):
                _stop_server(Server(self.installation, data, self._run_as))
            _stop_server(self.primary)
            remove_shared_memory(self._data)
            shutil.rmtree(self._directory, ignore_errors=True)
            if time.monotonic() > deadline:
                raise LogshipError(
                    Code.INTERNAL,
                    f"{self._directory} can't be removed: something still writes there",
                    "see which process it is (fuser, lsof), end it, and remove the directory",
                )


def _end_of_log(store: ObjectStore) -> Place | None:
    """Where the bucket's next object of WAL would stand."""
    (incarnation,) = store.folders(f"{INSTANCE}/")
    keys = Keys(INSTANCE, Incarnation.parse(incarnation))
    chain = look(store, keys, SEGMENT_BYTES).chain
    return chain.place if chain is not None else None


def _has(end: Place | None, status: InstanceStatus) -> bool:
    durable = status["store"]["durable"]
    if end is None or durable is None:
        return end is None
    timeline, _, lsn = durable.partition(":")
    return (int(timeline), Lsn.parse(lsn)) >= (end.timeline, end.lsn)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _stop_server(server: Server) -> None:
    with contextlib.suppress(LogshipError):
        server.stop("immediate")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]

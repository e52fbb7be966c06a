"""Where the demo happens: a temporary directory, primaries with a shipper each, an applier."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from logship.applier_client import ApplierClient
from logship.bucket.keys import Keys, Place
from logship.errors import Code, LogshipError, UsageError
from logship.identity import Incarnation
from logship.kept_ports import KeptPorts
from logship.link.keys import generate
from logship.lsn import Lsn
from logship.objects import ObjectStore
from logship.objects.opening import open_store
from logship.postgres.installations import Installation, choose, discover
from logship.postgres.process import Server
from logship.postgres.run_as import RunAs
from logship.settings_bucket import BucketSettings
from logship.status import InstanceStatus
from shipper.commands.demo.cluster import Cluster
from shipper.commands.demo.s3_server import PORTS as S3_PORTS
from shipper.commands.demo.s3_server import S3Server
from shipper.commands.demo.settings import (
    MAX_DELAY_SECONDS,
    applier_settings,
    shipper_settings,
)
from shipper.destinations.bucket.chain import look

INSTANCE = "demo"
BUCKET = "logship-demo"
SEGMENT_BYTES = 16 << 20
"""What initdb makes by default."""
CACHE_VARIABLE = "LOGSHIP_POSTGRES_CACHE"
STOP_SECONDS = 10.0


def find_installations(
    configured: Sequence[Path], major: int | None, count: int, run_as: RunAs
) -> list[Installation]:
    """What to show `count` clusters with: all of `major`, or the newest majors there are, one of
    each, and from the first on again if there are too few.

    Looks where the applier looks, and where `make postgres` puts servers.
    Raises LogshipError(NO_INSTALLATION).
    """
    found = discover([*configured, *_caches()], run_as=run_as)
    fitting = [one for one in found if major in (None, one.major)]
    if not fitting:
        return [choose(found, major or 18, 0)]  # raises, with the list of what there is
    newest = {one.major: one for one in sorted(fitting, key=lambda one: one.version_num)}
    majors = sorted(newest, reverse=True)
    return [newest[majors[number % len(majors)]] for number in range(count)]


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
        self,
        installations: Sequence[Installation],
        run_as: RunAs,
        protection: str,
        transport: str = "link",
    ) -> None:
        """installations: what each cluster is of.  transport: "link", or "s3": then
        `start_s3_server` comes before `start_processes`."""
        self.protection = protection
        self.transport = transport
        self._run_as = run_as
        self._directory = Path(tempfile.mkdtemp(prefix="logship-demo-"))
        self._directory.chmod(0o711)
        self._ports = KeptPorts()
        self._link_port = self._ports.take()
        count = len(installations)
        names = [INSTANCE] if count == 1 else [f"{INSTANCE}-{n + 1}" for n in range(count)]
        self.clusters = tuple(
            Cluster(
                name,
                installation,
                run_as,
                self._directory / f"primary-{name}",
                port=self._ports.take(),
                standby_port=self._ports.take(),
            )
            for name, installation in zip(names, installations, strict=True)
        )
        self.client = ApplierClient(self._directory / "run" / "applier.sock")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._s3_server: S3Server | None = None

    def standby_conninfo(self, cluster: Cluster) -> str:
        sockets = self._directory / "run" / "standby" / cluster.name
        return f"host={sockets} port={cluster.standby_port} user=postgres dbname=postgres"

    # --- the road, the applier and the shippers -------------------------------------------

    def start_s3_server(self) -> None:
        """What lies between the two with transport `s3`.  Raises LogshipError."""
        self._s3_server = S3Server(
            self._directory / "s3", [self._ports.take() for _ in range(S3_PORTS)]
        )
        self._s3_server.start()
        self._s3_server.make_bucket(BUCKET)

    def start_processes(self) -> None:
        """Keys, settings, the applier, and a shipper for each cluster."""
        directory = self._directory
        (directory / "run").mkdir(mode=0o711)
        generate(directory / "keys", "applier")
        for cluster in self.clusters:
            generate(directory / "keys", cluster.name)
        server = self._s3_server
        common: dict[str, str | int | Path] = {
            "directory": directory,
            "link_port": self._link_port,
            "endpoint_url": server.endpoint_url if server is not None else "",
        }
        homes = dict.fromkeys(each.installation.bin_dir.parent for each in self.clusters)
        self._start(
            "applier",
            "applier",
            applier_settings(
                self.transport,
                {each.name: each.standby_port for each in self.clusters},
                **common,
                installations=", ".join(f'"{home}"' for home in homes),
                run_as=self._run_as.name if self._run_as.changes else "",
            ),
        )
        for cluster in self.clusters:
            self._start(
                "shipper",
                f"shipper-{cluster.name}",
                shipper_settings(
                    self.transport,
                    **common,
                    instance=cluster.name,
                    protection=self.protection,
                    sockets=cluster.directory,
                    port=cluster.port,
                ),
            )

    def _start(self, program: str, name: str, text: str) -> None:
        server = self._s3_server
        environment = {**os.environ, **(server.owner.environment if server is not None else {})}
        settings = self._directory / f"{name}.toml"
        settings.write_text(text)
        code = f"from {program}.commands import main; raise SystemExit(main())"
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-c", code, "run", "--config", settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # Ctrl-C is for the demo alone, which then stops them in order.
                start_new_session=True,
            )

    async def wait_fetched(self, cluster: Cluster) -> None:
        """With a bucket: until what the shipper had read is uploaded, and the applier has it.

        A promotion uses what is on the recovery server, and the bucket is not.
        """
        if self._s3_server is None:
            return
        store = await asyncio.to_thread(self._open_bucket, self._s3_server)
        try:
            end = await asyncio.to_thread(_end_of_log, store, cluster.name)
            while True:
                fetched = partial(_has, end)
                await self.wait_for(
                    cluster, "all of the bucket in the applier's store", 30, fetched
                )
                await asyncio.sleep(2 * MAX_DELAY_SECONDS)
                before, end = end, await asyncio.to_thread(_end_of_log, store, cluster.name)
                if end == before:
                    return
        finally:
            store.close()

    @staticmethod
    def _open_bucket(server: S3Server) -> ObjectStore:
        os.environ.update(server.owner.environment)
        return open_store(BucketSettings(url=f"s3://{BUCKET}", endpoint_url=server.endpoint_url))

    async def wait_for(
        self,
        cluster: Cluster,
        what: str,
        seconds: float,
        ready: Callable[[InstanceStatus], object],
    ) -> InstanceStatus:
        """Wait until the instance's status satisfies `ready(status)`.

        Raises LogshipError with the end of the logs when it does not, or a process ends.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while loop.time() < deadline:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise self._failed(f"the {name} ended while waiting for {what}")
            with contextlib.suppress(LogshipError):
                status = await asyncio.to_thread(self.client.instance, cluster.name)
                if ready(status):
                    return status
            await asyncio.sleep(0.05)
        raise self._failed(f"no {what} of {cluster.name} within {seconds:.0f} s")

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
        self._ports.close()
        applier = self._processes.pop("applier", None)
        _stop(list(self._processes.values()))
        self._processes.clear()
        if applier is not None:
            _stop([applier])
        if self._s3_server is not None:
            self._s3_server.close()
        deadline = time.monotonic() + STOP_SECONDS
        while self._directory.exists():
            # An applier that had to be killed may have been starting a server.
            for cluster in self.clusters:
                for data in self._directory.glob(f"applier/instances/{cluster.name}/*/data"):
                    _stop_server(Server(cluster.installation, data, self._run_as))
                cluster.stop()
            shutil.rmtree(self._directory, ignore_errors=True)
            # To stop the servers of many clusters may take as long where nothing is wrong.
            if self._directory.exists() and time.monotonic() > deadline:
                raise LogshipError(
                    Code.INTERNAL,
                    f"{self._directory} can't be removed: something still writes there",
                    "see which process it is (fuser, lsof), end it, and remove the directory",
                )


def _end_of_log(store: ObjectStore, instance: str) -> Place | None:
    """Where the next object of WAL would stand in the instance's part of the bucket."""
    (incarnation,) = store.folders(f"{instance}/")
    keys = Keys(instance, Incarnation.parse(incarnation))
    chain = look(store, keys, SEGMENT_BYTES).chain
    return chain.place if chain is not None else None


def _has(end: Place | None, status: InstanceStatus) -> bool:
    durable = status["store"]["durable"]
    if end is None or durable is None:
        return end is None
    timeline, _, lsn = durable.partition(":")
    return (int(timeline), Lsn.parse(lsn)) >= (end.timeline, end.lsn)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _stop_server(server: Server) -> None:
    with contextlib.suppress(LogshipError):
        server.stop("immediate")

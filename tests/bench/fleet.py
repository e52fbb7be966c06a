"""Many instances on one applier, made cheaply: one is made in earnest, the others are copies.

A copy has its own name, key, directory, store and server; what it shares with the original is
the cluster's identity, of which an applier knows nothing beyond the instance.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import zmq
from psycopg.conninfo import make_conninfo

from applier.operations.record import InstanceRecord, load_record, record_path, save_record
from applier.store import Store
from logship.errors import LogshipError
from logship.identity import Profile
from logship.lsn import Lsn, plain_lsn
from logship.status import InstanceStatus
from logship.wal import WalLine
from tests.bench.simulated import Plan, SimulatedInstance
from tests.bench.site import PATIENCE_SECONDS, LogshipPair, Site
from tests.support.waiting import wait_until
from tests.support.wal_factory import WalFactory

_FIRST_PORT = 20_001
"""Only sockets are named by them: no standby here listens on TCP."""
_STORED_SEGMENT = 3
_STORED_BYTES = 96 * 1024

_INSTANCE = """
[instances.{name}]
public_key = "{key}"
port = {port}
{more}
"""


class FleetPair(LogshipPair):
    """An applier with any number of instances whose shippers are simulated, besides `add`'s."""

    def __init__(self, directory: Path, site: Site) -> None:
        super().__init__(directory, site)
        self._keys: dict[str, tuple[str, str]] = {}

    def add_simulated(self, names: Sequence[str], *, more: str = "") -> None:
        """Instances of `simulated`, in the applier's settings.  Restart it."""
        for name in names:
            public, secret = (key.decode("ascii") for key in zmq.curve_keypair())
            self._keys[name] = (public, secret)
            port = _FIRST_PORT + len(self._keys)
            self.instances[name] = _INSTANCE.format(name=name, key=public, port=port, more=more)
        self.write_applier_settings()

    @property
    def instances_directory(self) -> Path:
        return self.directory / "applier" / "instances"

    def standby_conninfo_of(self, name: str) -> str:
        """Of an instance of `add`."""
        return make_conninfo(
            host=str(self.directory / "run" / "standby" / name),
            port=self.standby_ports[name],
            user="postgres",
            dbname="postgres",
        )

    def copy_instance(self, original: str, names: Sequence[str]) -> None:
        """Make `names` from what `original` has; neither an applier nor its standby may run."""
        for name in names:
            target = self.instances_directory / name
            source = self.instances_directory / original
            command: list[str | Path] = ["cp", "-a", "--reflink=auto", source, target]
            subprocess.run(command, check=True)
            record = msgspec.structs.replace(load_record(target, original), name=name)
            # Not `save_record`, whose syncs would take minutes for hundreds.
            record_path(target).write_bytes(msgspec.json.encode(record, enc_hook=plain_lsn))

    def make_stored(self, name: str, profile: Profile) -> None:
        """An instance that has a store with a little WAL, and no standby."""
        directory = self.instances_directory / name
        incarnation = directory / str(profile.incarnation)
        incarnation.mkdir(parents=True)
        line = WalLine(profile.system_identifier, profile.major, profile.wal_segment_size)
        asyncio.run(_fill(incarnation / "wal", line))
        record = InstanceRecord(name=name, incarnation=profile.incarnation, profile=profile)
        save_record(directory, record)

    @contextlib.contextmanager
    def simulated(self, names: Sequence[str], *, standbys: bool) -> Iterator[None]:
        """Their shippers are connected, and with `standbys` simulated standbys stream."""
        first = load_record(self.instances_directory / names[0], names[0])
        assert first.profile is not None
        plan = Plan(
            endpoint=f"tcp://127.0.0.1:{self.link_port}",
            applier_public_key=(self.directory / "keys" / "applier.pub").read_text().split()[-1],
            profile=first.profile,
            instances=self._simulated(names),
            wal_server=str(self.directory / "run" / "wal" / ".s.PGSQL.5432") if standbys else "",
        )
        plan_file = self.directory / "simulated.json"
        plan_file.write_bytes(msgspec.json.encode(plan, enc_hook=plain_lsn))
        log_file = self.directory / "simulated.log"
        with log_file.open("wb") as log:
            command = [sys.executable, "-m", "tests.bench.simulated", str(plan_file)]
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until(
                lambda: "ready" in log_file.read_text() or process.poll() is not None,
                PATIENCE_SECONDS,
                "the simulated shippers are connected",
            )
            _require_alive(process, log_file)
            yield
            _require_alive(process, log_file)
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)

    def wait_all(
        self, names: Sequence[str], condition: Callable[[InstanceStatus], object], what: str
    ) -> None:
        """Wait until the status of each satisfies `condition`, all asked for at once."""

        def looked() -> bool:
            if not self.applier.is_running:
                raise RuntimeError(f"the applier ended while waiting: {what}")
            try:
                found = {status["name"]: status for status in self.client.instances()}
            except LogshipError:
                return False
            return all(name in found and condition(found[name]) for name in names)

        wait_until(looked, PATIENCE_SECONDS, what)

    def _simulated(self, names: Sequence[str]) -> list[SimulatedInstance]:
        found = {status["name"]: status for status in self.client.instances()}
        made = []
        for name in names:
            timeline, _, lsn = str(found[name]["store"]["durable"]).partition(":")
            public, secret = self._keys[name]
            made.append(
                SimulatedInstance(
                    name=name,
                    public_key=public,
                    secret_key=secret,
                    timeline=int(timeline),
                    lsn=Lsn.parse(lsn),
                )
            )
        return made

    def forget(self, name: str) -> None:
        """Take an instance out of the settings and remove what it has; its applier does not run."""
        del self.instances[name]
        shutil.rmtree(self.instances_directory / name)
        self.write_applier_settings()


async def _fill(directory: Path, line: WalLine) -> None:
    store = await asyncio.to_thread(Store.open, directory, line, keep_free_bytes=0)
    try:
        start = _STORED_SEGMENT * line.segment_bytes
        await store.begin_chain(1, start, seed_id="made")
        end = start + _STORED_BYTES
        await store.append(1, start, WalFactory(line).wal(1, start, end))
        await store.flush()
    finally:
        await asyncio.to_thread(store.close)


def _require_alive(process: subprocess.Popen[bytes], log_file: Path) -> None:
    if process.poll() is not None:
        raise RuntimeError(f"the simulated shippers ended: {log_file.read_text()[-2000:]}")

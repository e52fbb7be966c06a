"""Puts the simulation under the real code: every place where that code meets the world.

What runs is the real shipper (`Agent`, `Shipping`, `SealPipeline`, `StreamSource`,
`LinkDestination`, `ShipperSession`) and the real applier (`LinkReceiver`, `ApplierSession`,
`Instance`, `Store`, `WalServer` with its sessions, `promote`).  Replaced are, by name in the
modules that use them: sockets, the disk, clocks, random pauses, PostgreSQL, and unpacking seeds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
import structlog

import applier.operations.arrival as arrival_module
import applier.operations.following as following_module
import applier.operations.instance as instance_module
import applier.operations.keeping as keeping_module
import applier.operations.promotion as promotion_module
import applier.operations.record as record_module
import applier.operations.sender as sender_module
import applier.operations.version_check as version_check_module
import applier.receivers.link as receiver_module
import applier.receivers.link_connection as link_connection_module
import applier.store.store as store_module
import logship.wal as wal_module
import shipper.agent.shipping as shipping_module
import shipper.backoff as backoff_module
import shipper.destinations.link as destination_module
import shipper.sources.stream as stream_module
from applier.compat import Finding, Outcome, Verdict
from applier.operations.following import Following
from applier.operations.record import InstanceRecord, save_record
from applier.operations.sender import Sender
from applier.operations.version_check import VersionCheck
from applier.receivers.seed.placement import SeedPlaced
from applier.receivers.seed.receiver import SeedOutOfOrderError
from applier.standby.life import LifeState
from applier.standby.promotion import Opened
from applier.store import Store
from logship.errors import Code, LogshipError
from logship.frames import MAX_PAYLOAD_BYTES, SeedBegin, SeedChunk, SeedEnd
from logship.identity import Profile
from logship.lsn import Lsn, Position
from logship.seal import unseal
from tests.simulation.cluster import SEGMENT_BYTES, SimPrimaryQueries, SimReplicationConnection
from tests.simulation.disk import SimDurable
from tests.simulation.loop import PROCESS
from tests.simulation.network import SimDealer, SimRouter

SEED_RECORD = "seed.json"


def machine() -> Any:
    """The machine that the calling process runs on: `world.RecoveryServer`."""
    process = PROCESS.get()
    assert process is not None
    return process.machine


class SimClock:
    """`time`, as far as it is used: both clocks are the loop's."""

    @staticmethod
    def time() -> float:
        return 1_800_000_000.0 + asyncio.get_running_loop().time()

    @staticmethod
    def monotonic() -> float:
        return asyncio.get_running_loop().time()

    @staticmethod
    def gmtime(seconds: float) -> Any:
        import time

        return time.gmtime(seconds)

    strftime = staticmethod(lambda form, when: "then")


class SimStore(Store):
    """The real store; tells the checker what it did."""

    name = ""

    @classmethod
    def open(cls, directory: Any, line: Any, **options: Any) -> Any:
        here = machine()
        store: Any = super().open(directory, line, disk=here.disk, **options)
        store.name = directory.parts[3]
        here.checker.opened(store.name, store)
        return store

    async def append(self, timeline: int, start_lsn: int, data: Any) -> Position:
        checker = machine().checker
        before = checker.appending(self.name, self)
        position = await super().append(timeline, start_lsn, data)
        checker.appended(self.name, before, position)
        return position

    def append_at_once(self, timeline: int, start_lsn: int, data: Any) -> Position | None:
        checker = machine().checker
        before = checker.appending(self.name, self)
        position = super().append_at_once(timeline, start_lsn, data)
        if position is not None:
            checker.appended(self.name, before, position)
        return position

    async def begin_chain(self, timeline: int, start_lsn: int, *, seed_id: str = "") -> None:
        try:
            await super().begin_chain(timeline, start_lsn, seed_id=seed_id)
        finally:  # it may have begun although its caller was cancelled
            machine().checker.chain_began(self.name, self)


class SimSyncThread:
    """`SyncThread`: the loop says when the work takes effect and when it is reported."""

    def __init__(self, name: str) -> None:
        pass

    def submit(self, work: Any, done: Any) -> None:
        def tell(future: Any) -> None:
            error = future.exception()
            done(None if error is not None else future.result(), error)

        asyncio.get_running_loop().run_in_executor(self, work).add_done_callback(tell)  # type: ignore[arg-type]

    def close(self) -> None:
        pass


class NoIndexing:
    """`CommitIndexing`: of use to a restore, which is not simulated, and in a thread that is
    real, so that a history would depend on how busy this machine is."""

    def __init__(self, store: Store) -> None:
        pass

    def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


class SimSender(Sender):
    """The real one; tells the checker what is believed."""

    def heard_from(self, timeline: int, flush_lsn: int) -> None:
        before = self.heard
        super().heard_from(timeline, flush_lsn)
        if self.heard is not before:
            instance = self._instance
            machine().checker.heard(instance.name, timeline, instance.store)


def sim_save_record(directory: Any, record: InstanceRecord) -> None:
    save_record(directory, record)
    machine().checker.record_saved(record)


# --- seeds and standbys, without their files ------------------------------------------------


def read_placement(directory: Any) -> SeedPlaced | None:
    content = machine().disk.read_file(directory / SEED_RECORD)
    return None if content is None else msgspec.json.decode(content, type=SeedPlaced)


class SimSeedReceiver:
    """`SeedReceiver`, keeping nothing but what it takes to know that the seed is complete."""

    recovered = None

    def __init__(self, directory: Any, **_: Any) -> None:
        self.next_sequence = 0
        self.received_bytes = self.estimated_bytes = 0
        self.failure: LogshipError | None = None
        self._directory = directory
        self._begun: SeedBegin | None = None
        self._placed: SeedPlaced | None = None

    @property
    def is_verified(self) -> bool:
        return False

    @property
    def seed_id(self) -> str:
        return self._begun.seed_id if self._begun is not None and self._placed is None else ""

    async def begin(self, frame: SeedBegin) -> None:
        if self._begun is None or self._begun.seed_id != frame.seed_id:
            await asyncio.sleep(0.002)
            self._begun, self.next_sequence, self._placed = frame, 0, None

    def _check(self, seed_id: str) -> None:
        if self._begun is None or self._begun.seed_id != seed_id:
            raise LogshipError(Code.SEED_FAILED, f"seed {seed_id} did not begin", retryable=True)

    async def chunk(self, frame: SeedChunk, payload: Any) -> None:
        self._check(frame.seed_id)
        if frame.sequence < self.next_sequence:
            return
        if frame.sequence > self.next_sequence:
            raise SeedOutOfOrderError(self.next_sequence, frame.sequence)
        raw = unseal(
            frame.codec, frame.crc32c, frame.raw_bytes, payload, max_raw_bytes=MAX_PAYLOAD_BYTES
        )
        await asyncio.sleep(0.001)
        assert bytes(raw) == seed_payload(frame.seed_id, frame.sequence), "another seed's bytes"
        self.next_sequence += 1
        self.received_bytes += frame.raw_bytes

    async def end(self, frame: SeedEnd, before_swap: Any) -> SeedPlaced:
        if self._placed is not None and self._placed.seed_id == frame.seed_id:
            return self._placed
        self._check(frame.seed_id)
        if frame.sequence != self.next_sequence:
            raise SeedOutOfOrderError(self.next_sequence, frame.sequence)
        assert self._begun is not None
        placed = SeedPlaced(
            seed_id=frame.seed_id,
            timeline=frame.timeline,
            start_lsn=self._begun.start_lsn,
            end_lsn=frame.end_lsn,
            bytes=0,
            files=0,
        )
        await asyncio.sleep(0.01)
        await before_swap()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._swap, placed)
        self._placed = placed
        return placed

    def _swap(self, placed: SeedPlaced) -> None:
        try:
            machine().disk.write_file(self._directory / SEED_RECORD, msgspec.json.encode(placed))
        except OSError as error:
            raise LogshipError(Code.DISK_FULL, str(error), retryable=True) from error

    async def abort(self) -> None:
        self._begun = self._placed = self.failure = None
        self.next_sequence = 0


def seed_payload(seed_id: str, sequence: int) -> bytes:
    return f"{seed_id}:{sequence};".encode() * 20


class SimEnvironmentWatch:
    """Nothing surrounds a simulated primary."""

    def __init__(self, queries: Any) -> None: ...

    async def open(self, profile: Profile) -> Profile:
        return profile

    def refreshed(self, profile: Profile) -> Profile:
        return profile

    async def stop(self) -> None: ...


class SimStandby:
    """`applier.standby.Standby` over a simulated server."""

    def __init__(self, name: str, placed: SeedPlaced) -> None:
        here = machine()
        self._server = here.standbys[name]
        self._placed = placed
        self._here = here

    def status(self) -> Any:
        return SimpleNamespace(state=LifeState.RUNNING)

    async def ensure_started(self) -> None:
        await asyncio.sleep(0.01)
        server = self._server
        if server.seed_id != self._placed.seed_id:
            server.stop()
            self._here.place(server, self._placed)
        server.start()

    async def stop(self) -> None:
        await asyncio.sleep(0.01)
        self._server.stop()

    async def close(self) -> None:
        await asyncio.sleep(0)

    async def watch(self) -> None:
        await asyncio.Event().wait()

    async def set_profile(self, profile: Any) -> None:
        await asyncio.sleep(0)

    async def retry_streaming(self) -> None:
        await asyncio.sleep(0)

    async def positions(self) -> Any:
        await asyncio.sleep(0.001)
        replayed = Lsn(self._server.replayed)
        return SimpleNamespace(received=replayed, replayed=replayed, replay_idle=True)

    async def replayed_everything(self, end_lsn: int, timeout_seconds: float) -> bool:
        await asyncio.sleep(0.001)
        return bool(self._server.replayed >= end_lsn)

    async def promote(self, timeout_seconds: float = 60.0) -> Opened:
        await asyncio.sleep(0.03)
        if self._server.opened is None:
            self._here.checker.opening(self._server)
            self._server.promote()
        timeline, lsn = self._server.opened
        return Opened(timeline, Lsn(lsn), 0.02, 0.03)

    async def admit_clients(self) -> tuple[str, ...]:
        return ()

    admits_nobody = False

    async def progress(self) -> tuple[object, ...]:
        await asyncio.sleep(0.001)
        return (self._server.replayed,)


class SimVersionCheck(VersionCheck):
    """The real one, without installations and data directories."""

    def _newest_of(self, major: int) -> Any:
        return INSTALLATION

    def _was_removed(self) -> bool:
        return False

    async def compare(self, *_: Any, **__: Any) -> Verdict:
        profile: Any = self._instance.record.profile
        await asyncio.sleep(0.001)
        allowed = machine().allowed_connections
        blocked = profile.max_connections > allowed
        return Verdict(
            (
                Finding(
                    "parameter-floors",
                    Outcome.BLOCK if blocked else Outcome.PASS,
                    str(profile.max_connections),
                    str(allowed),
                    "simulated",
                ),
            )
        )

    async def _look_for_client_rules(self, *_: Any) -> None:
        """There are none here."""


class SimFollowing(Following):
    """The real one, with a standby that needs no installation and no files."""

    async def primary_changed(self, profile: Profile) -> None:
        machine().checker.checked(self._instance.name, profile, self._instance.store)
        await super().primary_changed(profile)

    async def look_for_promotion(self) -> None:
        """There are no databases."""

    def _layout(self) -> Any:
        opened = machine().standbys[self._instance.name].opened is not None
        signal_file = SimpleNamespace(exists=lambda: not opened)
        return SimpleNamespace(data=None, signal_file=signal_file)

    def _make_standby(self, *, opened: bool = False) -> Any:
        assert self.placed is not None
        self._runs_on = self.installation
        return SimStandby(self._instance.name, self.placed)


INSTALLATION: Any = SimpleNamespace(major=17, version_num=170009, version="17.9")


def _replacements(random: Random) -> list[Any]:
    nothing = lambda *_, **__: None  # noqa: E731
    patch = mock.patch.object
    return [
        patch(wal_module, "MIN_SEGMENT_BYTES", SEGMENT_BYTES),
        patch(destination_module, "Dealer", SimDealer),
        patch(destination_module, "time", SimClock),
        patch(shipping_module, "time", SimClock),
        patch(backoff_module, "time", SimClock),
        patch(backoff_module, "random", random),
        patch(stream_module, "ReplicationConnection", SimReplicationConnection),
        patch(stream_module, "PrimaryQueries", SimPrimaryQueries),
        patch(stream_module, "EnvironmentWatch", SimEnvironmentWatch),
        patch(receiver_module, "Router", SimRouter),
        patch(link_connection_module, "time", SimClock),
        patch(keeping_module, "Store", SimStore),
        patch(arrival_module, "SeedReceiver", SimSeedReceiver),
        patch(instance_module, "Following", SimFollowing),
        patch(instance_module, "durable", SimDurable),
        patch(keeping_module, "durable", SimDurable),
        patch(instance_module, "time", SimClock),
        patch(instance_module, "Sender", SimSender),
        patch(sender_module, "time", SimClock),
        patch(instance_module, "save_record", sim_save_record),
        patch(keeping_module, "CommitIndexing", NoIndexing),
        patch(instance_module, "recover_placement", read_placement),
        patch(record_module, "durable", SimDurable),
        patch(promotion_module, "time", SimClock),
        patch(store_module, "time", SimClock),
        patch(store_module, "SyncThread", SimSyncThread),
        patch(following_module, "read_placement", read_placement),
        patch(following_module, "is_unfinished", lambda _: False),
        patch(following_module, "prepare", nothing),
        patch(following_module, "discard_previous", nothing),
        patch(following_module, "VersionCheck", SimVersionCheck),
        patch(version_check_module, "choose", lambda *_, **__: INSTALLATION),
    ]


@contextlib.contextmanager
def wired(random: Random) -> Iterator[None]:
    """The real code runs on the simulation inside this block."""
    before = structlog.get_config()
    try:
        with contextlib.ExitStack() as stack:
            for replacement in _replacements(random):
                stack.enter_context(replacement)
            yield
    finally:
        structlog.configure(**before)

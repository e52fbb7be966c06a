"""One seed: the parties, what befalls them, and what must be true in the end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

from applier.operations.host import Host
from applier.operations.instance import Instance
from applier.operations.promotion import promote, resume
from applier.receivers.link import LinkReceiver
from applier.settings_budgets import BudgetsSettings
from applier.walserver.server import WalServer
from logship.errors import Code, LogshipError
from logship.frames import SeedAborted, SeedBegin, SeedChunk, SeedEnd
from logship.lsn import Lsn, Position
from logship.seal import seal
from shipper.agent.agent import Agent
from shipper.agent.last_primary import LastPrimary
from shipper.destinations.link import LinkDestination, ShipperIdentity
from shipper.sources.stream import StreamSource
from tests.simulation import cluster, network
from tests.simulation.checker import Checker, Ledger
from tests.simulation.cluster import SEGMENT_BYTES, SimServer
from tests.simulation.disk import SimDisk, SimPath
from tests.simulation.loop import Process, SimLoop
from tests.simulation.network import Network
from tests.simulation.standby import WalReceiver
from tests.simulation.wiring import seed_payload

OPERATOR_CODES = frozenset(
    {
        Code.WAL_GAP,
        Code.STANDBY_AHEAD_OF_FORK,
        Code.WAL_CONFLICT,
        Code.TIMELINE_DIVERGED,
        Code.SEED_FAILED,
    }
)
"""Alarms that a new seed mends."""
FINAL_CODES = frozenset({Code.STANDBY_AHEAD_OF_FORK})
"""What may keep a promotion from its end for good once the fence stands: an operator was told,
and has to decide."""
OPERATOR_PATIENCE_SECONDS = 20.0


class Site:
    """A host beside a primary, with one shipper that is started again whenever it ends."""

    def __init__(self, name: str, group: Group, conninfo: str) -> None:
        self.name = name
        self.group = group
        self.conninfo = conninfo
        self.process: Process | None = None
        self.wanted = True
        self.boots = 0
        self.last_primary: LastPrimary | None = None


class Group:
    """One cluster: the server that is the primary, those that were, and their shippers."""

    def __init__(self, instance: str, first: SimServer, *, follows: bool) -> None:
        self.instance = instance
        self.servers = [first]
        self.current = first
        self.follows = follows
        """One shipper whose conninfo finds the primary; else each server has its own."""
        self.sites: list[Site] = []
        self.seed_excuses: list[str] = []
        """Why a new seed by an operator's hand may be needed."""
        self.seeds_by_hand = 0
        self.asked_at = -1e9
        self.promoting = False
        self.promotion_failure: LogshipError | None = None
        """Of the last one, if that ended."""
        self.written_bytes = 0


class RecoveryServer:
    """The applier's machine."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.checker = world.checker
        self.disk = SimDisk(world.random, world.applier_stopped)
        self.standbys: dict[str, WalReceiver] = {}
        self.process: Process | None = None
        self.wal_server: WalServer | None = None
        self.instances: dict[str, Instance] = {}
        self.allowed_connections = 100
        self.starts = 0

    def place(self, standby: WalReceiver, placed: Any) -> None:
        group = self.world.groups[standby.instance]
        server = self.world.seeds[placed.seed_id]
        histories = {n: c for n, c in server.histories.items() if n <= placed.timeline}
        standby.seeded(placed.seed_id, placed.timeline, placed.start_lsn, histories)
        self.world.note("seed placed", instance=group.instance, seed=placed.seed_id)


class World:
    """Everything of one seed.  `run` of scenario.py drives it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.history: list[tuple[float, str, dict[str, Any]]] = []
        self.on_note: Callable[[float, str, dict[str, Any]], None] | None = None
        self.loop = SimLoop(self.random, self._work_seconds)  # type: ignore[abstract]
        self.network = Network(self.loop, self.random)
        self.checker = Checker(self.random, self.note, self.loop.errors)
        self.recovery = RecoveryServer(self)
        self.checker.machine = self.recovery
        self.network.on_ack = self._heard
        self.groups: dict[str, Group] = {}
        self.sites: dict[str, Site] = {}
        self.seeds: dict[str, SimServer] = {}
        self.quiet = False
        self.closed = False
        self._names = itertools.count(1)
        network.NETWORK["now"] = self.network
        cluster.RESOLVE["now"] = self._resolve

    def note(self, what: str, /, **facts: Any) -> None:
        self.history.append((self.loop.now, what, facts))
        if self.on_note is not None:
            self.on_note(self.loop.now, what, facts)

    def _work_seconds(self) -> float:
        return 0.002 * self.recovery.disk.slow_factor

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    # --- primaries and shippers -------------------------------------------------------------

    def add_group(self, instance: str, *, follows: bool) -> Group:
        number = len(self.groups) + 1
        first = SimServer(f"{instance}-1", 7_300_000_000_000_000_000 + number, number * 16)
        group = self.groups[instance] = Group(instance, first, follows=follows)
        self.checker.ledgers[instance] = ledger = Ledger()
        ledger.servers = group.servers
        standby = WalReceiver(self.loop, instance, self._wal_server)
        standby.on_wal = self.checker.received
        standby.on_served = self.checker.served
        self.recovery.standbys[instance] = standby
        self.add_server(group, first)
        first.write(SEGMENT_BYTES // 2 + self.random.randrange(SEGMENT_BYTES))
        first.checkpoint()
        return group

    def add_server(self, group: Group, server: SimServer) -> None:
        """Take note of a server, and give it a shipper if they have one each."""
        server.on_status = lambda which, lsn: self.checker.slot_moved(group.instance, which, lsn)
        if server not in group.servers:
            group.servers.append(server)
        group.current = server
        if not group.sites or not group.follows:
            site = Site(server.name, group, server.name)
            group.sites.append(site)
            self.sites[site.name] = site

    def _resolve(self, conninfo: str) -> SimServer | None:
        group = self.sites[conninfo].group
        if group.follows:
            return group.current
        return next((server for server in group.servers if server.name == conninfo), None)

    def start_shipper(self, site: Site) -> None:
        if not site.wanted or (site.process is not None and site.process.alive):
            return
        site.boots += 1
        site.process = Process(f"shipper {site.name}")
        self.note("shipper starts", site=site.name)
        self.loop.spawn(site.process, self._shipper(site))

    async def _shipper(self, site: Site) -> None:
        source = StreamSource(site.conninfo, slot="logship", application_name="logship")
        destination = LinkDestination(
            site.name,
            server_public_key="",
            keys=None,  # type: ignore[arg-type]
            identity=ShipperIdentity(site.group.instance, site.name, str(site.boots), "async"),
        )

        async def take_seed(send: Any, system_identifier: int) -> None:
            await self._take_seed(site, send)

        agent = Agent(
            source,
            destination,
            take_seed,
            compress=False,
            last_primary=site.last_primary,
            remember=lambda last: setattr(site, "last_primary", last),
        )
        try:
            await agent.run(asyncio.Event())
        except LogshipError as error:
            self.note("shipper ends", site=site.name, why=error.what)
            self.stop_shipper(site, again_in=3.0)
        except Exception as error:
            self.loop.errors.append(error)

    async def _take_seed(self, site: Site, send: Any) -> None:
        server = self._resolve(site.conninfo)
        if server is None or not server.up:
            raise LogshipError(Code.PRIMARY_UNREACHABLE, "the primary is down", retryable=True)
        seed_id = f"seed-{next(self._names)}"
        self.seeds[seed_id] = server
        generation = server.generation
        server.redo_lsn = int(server.flush_lsn)
        server.write(120)
        start_lsn = max(server.redo_lsn, server.removed_before)
        self.note("base backup", site=site.name, seed=seed_id, start=Lsn(start_lsn))
        begin = SeedBegin(
            seed_id=seed_id, timeline=server.timeline, start_lsn=start_lsn, estimated_bytes=0
        )
        await send(begin, b"")
        count = self.random.randrange(1, 5)
        for sequence in range(count):
            await asyncio.sleep(self.random.random() * 0.2)
            if server.generation != generation:
                await send(SeedAborted(seed_id=seed_id, code="seed-failed", what="cut"), b"")
                raise LogshipError(Code.SEED_FAILED, "the backup was cut", retryable=True)
            sealed = seal(seed_payload(seed_id, sequence), compress=False)
            chunk = SeedChunk(
                seed_id=seed_id,
                sequence=sequence,
                kind="data",
                raw_bytes=sealed.raw_bytes,
                crc32c=sealed.crc32c,
                codec=sealed.codec,
            )
            await send(chunk, sealed.payload)
        server.write(80)
        end = SeedEnd(
            seed_id=seed_id,
            sequence=count,
            timeline=server.timeline,
            end_lsn=int(server.flush_lsn),
        )
        await send(end, b"")

    def new_site(self, site: Site) -> None:
        """A server's own shipper starts; the applier was told of its key beforehand."""
        self.loop.at(self.loop.now + self.random.random(), self.start_shipper, site)

    def stop_shipper(self, site: Site, *, again_in: float | None) -> None:
        process = site.process
        if process is not None and process.alive:
            process.alive = False
            self.network.cut_process(process)
            for server in site.group.servers:
                for connection in list(server._connections):
                    if connection.process is process:
                        connection.close()
        if again_in is not None:
            self.loop.at(self.loop.now + again_in, self.start_shipper, site)

    # --- the applier ------------------------------------------------------------------------

    def start_applier(self) -> None:
        recovery = self.recovery
        if recovery.process is not None and recovery.process.alive:
            return
        recovery.starts += 1
        recovery.process = Process("applier", recovery)
        self.note("applier starts", number=recovery.starts)
        self.loop.spawn(recovery.process, self._applier(recovery.process))

    async def _applier(self, process: Process) -> None:
        recovery = self.recovery
        recovery.instances = {}
        recovery.wal_server = None
        wal_server = WalServer(
            SimPath("/run"),  # type: ignore[arg-type]
            allowed_uids=frozenset({0}),
            on_status=self._standby_reported,
        )
        wal_server._server = SimpleNamespace()  # type: ignore[assignment]
        settings: Any = SimpleNamespace(
            directory=SimPath("/applier"),
            store=SimpleNamespace(keep_free_mb=0, volumes=[]),
            seeds=SimpleNamespace(keep=0),
            standby=SimpleNamespace(volumes=[], private_paths="never"),
            budgets=BudgetsSettings(),
            parameters_of=lambda _: {},
            shared_buffers_mb_of=lambda _: 16,
            instances={
                name: SimpleNamespace(
                    seed="auto",
                    port=1,
                    run_standby=True,
                    overrides=(),
                    disk_mb=None,
                    intake_mb_per_second=None,
                    priority=5,
                )
                for name in self.groups
            },
        )
        host = Host(settings, None, [], wal_server)  # type: ignore[arg-type]
        instances = {name: Instance(name, host) for name in self.groups}
        try:
            for instance in instances.values():
                await instance.open()
                self.checker.record_loaded(instance.record)
        except LogshipError as error:
            self.note("applier did not start", code=str(error.code), what=error.what)
            if not error.retryable and error.code != Code.STORE_FAILED:
                self.checker.fail("6", f"the applier does not start: {error}")
            self.applier_dies("kill", again_in=1.0)
            return
        except Exception as error:
            self.loop.errors.append(error)
            return
        recovery.instances = instances
        recovery.wal_server = wal_server
        receiver = LinkReceiver(
            instances,
            {f"{name}-{n}": frozenset({name}) for name in self.groups for n in range(1, 9)},
            keys=None,  # type: ignore[arg-type]
            window_bytes=self.window_bytes,
            heartbeat_seconds=self.heartbeat_seconds,
        )
        self.receiver = receiver
        for instance in instances.values():
            if instance.record.fence is not None and instance.record.promotion is None:
                host.spawn(self._promote(instance, resume))
        receiver.start("tcp://*:1")
        self.note("applier listens")
        await asyncio.Event().wait()

    window_bytes = 64 * 1024
    heartbeat_seconds = 1.0
    receiver: LinkReceiver

    def _standby_reported(self, name: str, status: Any) -> None:
        instance = self.recovery.instances.get(name)
        if instance is not None:
            instance.following.serving.status_changed(status)

    def _wal_server(self) -> tuple[WalServer, Any] | None:
        recovery = self.recovery
        if recovery.process is None or not recovery.process.alive or recovery.wal_server is None:
            return None
        return recovery.wal_server, recovery.process.context

    def _heard(self, wire: Any, parts: Any) -> None:
        self.checker.said(self.sites[wire.site].group.instance, wire.site, parts)

    def applier_stopped(self) -> None:
        """A disk operation was the last: whether process or machine died is decided now."""
        assert self.recovery.process is not None
        self.recovery.process.alive = False
        how = "power" if self.chance(0.6) else "kill"
        self.loop.at(self.loop.now, self._buried, how, 0.1 + self.random.random() * 2)

    def applier_dies(self, how: str, *, again_in: float) -> None:
        process = self.recovery.process
        if process is not None and process.alive:
            process.alive = False
            self.recovery.disk.halt()
            self.loop.at(self.loop.now, self._buried, how, again_in)

    def _buried(self, how: str, again_in: float) -> None:
        recovery = self.recovery
        assert recovery.process is not None
        self.note("applier died", how=how)
        recovery.wal_server = None
        recovery.instances = {}
        if how == "power":
            recovery.disk.crash()
            self.network.power_cut(recovery.process)
        else:
            recovery.disk.kill()
            self.network.cut_process(recovery.process)
        for standby in recovery.standbys.values():
            standby.server_died()
            if how == "power":
                standby.stop()
        self.loop.at(self.loop.now + again_in, self.start_applier)

    # --- operators --------------------------------------------------------------------------

    def promote(self, name: str) -> None:
        instance = self.recovery.instances.get(name)
        if instance is None or self.groups[name].promoting:
            return
        assert self.recovery.process is not None
        self.groups[name].promoting = True
        self.note("promote", instance=name)
        work = self._promote(instance, promote)
        self.loop.create_task(work, context=self.recovery.process.context)

    async def _promote(self, instance: Instance, how: Any) -> None:
        group = self.groups[instance.name]
        group.promoting, group.promotion_failure = True, None
        try:
            await how(instance, lambda step, facts: self.note("promotion", step=step, **facts))
        except LogshipError as error:
            self.note("promotion failed", instance=instance.name, why=str(error))
            group.promoting = False
            group.promotion_failure = error
        except Exception as error:  # a promotion that can't work must not look like none
            self.loop.errors.append(error)

    def look_after(self, group: Group) -> None:
        """An operator reads the alarms, and seeds again where that is the remedy; and promotes
        again where a promotion that failed says that it may be tried."""
        instance = self.recovery.instances.get(group.instance)
        if instance is None:
            return
        if instance.record.fence is not None:
            self._promote_again(group)
            return
        codes = OPERATOR_CODES & set(instance.alarms._raised)
        if not codes or self.loop.now < group.asked_at + OPERATOR_PATIENCE_SECONDS:
            return
        if not group.seed_excuses:
            errors = [str(instance.alarms._raised[code]) for code in sorted(codes)]
            self.checker.fail("6", f"{group.instance} needs an operator for no reason: {errors}")
        with contextlib.suppress(LogshipError):  # no shipper is connected: again later
            instance.request_seed("an operator")
            group.asked_at = self.loop.now
            group.seeds_by_hand += 1
            self.note("operator seeds", instance=group.instance, codes=sorted(codes))

    def _promote_again(self, group: Group) -> None:
        failure = group.promotion_failure
        if failure is None or not failure.retryable:
            return
        if self.loop.now >= group.asked_at + OPERATOR_PATIENCE_SECONDS:
            group.asked_at = self.loop.now
            self.promote(group.instance)

    # --- the end ----------------------------------------------------------------------------

    def missing(self, group: Group) -> str:
        """What is not yet as it must be once faults have stopped, or ""."""
        ledger = self.checker.ledgers[group.instance]
        standby = self.recovery.standbys[group.instance]
        if ledger.fenced:
            failure = group.promotion_failure
            if not standby.opened and (failure is None or failure.code not in FINAL_CODES):
                return f"the promotion is not finished: {failure}"
            site = group.sites[0] if group.follows else self.sites[group.current.name]
            return "" if site.name in ledger.told_fenced else f"{site.name} is told of no fence"
        instance = self.recovery.instances.get(group.instance)
        if instance is None or instance.store is None:
            return "the applier is not up"
        server = group.current
        wanted = Position(server.timeline, server.flush_lsn)
        if ledger.promised is None or ledger.promised < wanted:
            return f"{wanted} is flushed, acknowledged is {ledger.promised}"
        if standby.seed_id != instance.store.chains[-1].seed_id:
            return f"{standby.seed_id} is in place, {instance.store.chains[-1].seed_id} arrives"
        if standby.timeline != wanted.timeline or standby.replayed < wanted.lsn:
            at = Position(standby.timeline, Lsn(standby.replayed))
            return f"{wanted} is flushed, the standby is at {at} ({standby.complaint})"
        if server.slots.get("logship") != server.flush_lsn:
            return f"the slot stands at {server.slots.get('logship')}"
        return ""

    def check_end(self, group: Group) -> None:
        """All bytes that the standby has are the last primary's."""
        ledger = self.checker.ledgers[group.instance]
        if ledger.fenced:
            return
        standby = self.recovery.standbys[group.instance]
        server = group.current
        line = server.line
        for timeline, wal in standby.wal.items():
            if not line.contains(timeline):
                self.checker.fail("4", f"the standby has WAL of timeline {timeline}")
            end = min(wal.end, line.end_of(timeline) or wal.end)
            if wal.read(wal.start, end) != server.wal[timeline].read(wal.start, end):
                self.checker.fail("4", f"the standby's timeline {timeline} is not the primary's")
        self.checker.what_if_power_fails(group.instance)

    def close(self) -> None:
        self.closed = True
        for process in [self.recovery.process, *(site.process for site in self.sites.values())]:
            if process is not None:
                process.alive = False
        self.recovery.disk.halt()
        self.loop.close()

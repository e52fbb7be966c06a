"""What happens in a seed: which faults, how often, how long, and the quiet that follows."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import traceback
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import structlog

from logship.wal import segment_start
from tests.simulation.checker import Violation
from tests.simulation.cluster import SEGMENT_BYTES, SimServer
from tests.simulation.loop import Stuck
from tests.simulation.mistakes import MISTAKES
from tests.simulation.network import Abuse
from tests.simulation.wiring import wired
from tests.simulation.world import Group, Site, World

QUIET_LIMIT_SECONDS = 240.0
"""Within this everything must have arrived once faults have stopped.  The longest pauses that
can add up: a shipper that was refused waits 15 s, a seed that failed several times 40 s, an
operator looks again after 20 s."""
FAILING_OPERATIONS = (
    *("datasync", "datasync", "pwrite", "rename"),
    *("sync_directory", "write_file", "allocate", "truncate"),
)
MAX_WRITTEN_BYTES = 12 * SEGMENT_BYTES


class Outcome(NamedTuple):
    seed: int
    failure: str
    history: list[tuple[float, str, dict[str, Any]]]
    promises: int
    what_ifs: int
    turns: int
    simulated_seconds: float
    faults: list[str]

    def digest(self) -> str:
        """Equal for equal histories."""
        text = "\n".join(describe(*entry) for entry in self.history)
        return hashlib.sha256(text.encode()).hexdigest()


def describe(at: float, what: str, facts: dict[str, Any]) -> str:
    rest = " ".join(f"{key}={value}" for key, value in facts.items())
    return f"{at:9.4f}  {what:<22} {rest}".rstrip()


class Faults:
    """Each method is a fault; it mends itself after a while, at the latest when all is quiet."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.enabled = self._choose()

    def _choose(self) -> list[Callable[[], None]]:
        common = [
            self.cut,
            self.cut_in_mid_flush,
            self.partition,
            self.slow_network,
            self.kill_applier,
            self.power_cut,
            self.crash_in_disk_operation,
            self.freeze,
            self.kill_shipper,
            self.restart_primary,
            self.checkpoint,
            self.failed_sync,
            self.full_disk,
            self.slow_disk,
            self.restart_standby,
        ]
        rare = [
            self.abuse,
            self.fail_over,
            self.fail_over,
            self.change_primary,
            self.operator,
            self.restored,
        ]
        once = [self.promote, self.lose_slot]
        chosen = [fault for fault in common if self.random.random() < 0.4]
        chosen += [fault for fault in rare if self.random.random() < 0.3]
        chosen += [fault for fault in once if self.random.random() < 0.2]
        return chosen or [self.power_cut]

    def strike(self) -> None:
        world = self.world
        if world.quiet:
            return
        fault = self.random.choice(self.enabled)
        world.note("FAULT", kind=fault.__name__)
        fault()

    def _for_a_while(self, undo: Callable[[], None], longest: float = 6.0) -> None:
        loop = self.world.loop
        loop.at(loop.now + self.random.random() ** 2 * longest, undo)

    def _group(self) -> Group:
        return self.random.choice(list(self.world.groups.values()))

    def _site(self) -> Site:
        return self.random.choice(list(self.world.sites.values()))

    # --- the network ------------------------------------------------------------------------

    def cut(self) -> None:
        if self.world.network.wires:
            self.world.network.cut(self.random.choice(self.world.network.wires))

    def partition(self) -> None:
        site = self._site().name
        ways = self.random.choice([[f"{site}>"], [f"{site}<"], [f"{site}>", f"{site}<"]])
        self.world.network.partition(ways)
        self._for_a_while(lambda: self.world.network.heal(ways), 10.0)

    def cut_in_mid_flush(self) -> None:
        """A connection is lost while what it brought is being synced."""
        world = self.world
        self.slow_disk()
        for group in world.groups.values():
            group.current.write(1 + self.random.randrange(3000))
        for _ in range(3):
            world.loop.at(world.loop.now + self.random.random(), self.cut)

    def slow_network(self) -> None:
        self.world.network.slow_factor = self.random.choice([5.0, 30.0, 100.0])
        self._for_a_while(lambda: setattr(self.world.network, "slow_factor", 1.0))

    def abuse(self) -> None:
        rates = [self.random.choice([0.0, 0.05, 0.2]) for _ in range(4)]
        self.world.network.abuse = Abuse(*rates)
        self._for_a_while(lambda: setattr(self.world.network, "abuse", None))

    # --- the recovery server ----------------------------------------------------------------

    def kill_applier(self) -> None:
        self.world.applier_dies("kill", again_in=0.1 + self.random.random())

    def power_cut(self) -> None:
        self.world.applier_dies("power", again_in=0.3 + self.random.random() * 3)

    def crash_in_disk_operation(self) -> None:
        self.world.recovery.disk.crash_after(self.random.randrange(12))

    def freeze(self) -> None:
        processes = [self.world.recovery.process, *(s.process for s in self.world.sites.values())]
        process = self.random.choice(processes)
        if process is not None:
            process.frozen_until = self.world.loop.now + self.random.random() ** 2 * 8

    def failed_sync(self) -> None:
        operation = self.random.choice(FAILING_OPERATIONS)
        self.world.recovery.disk.fail_next(operation, 5, skip=self.random.randrange(3))

    def full_disk(self) -> None:
        disk = self.world.recovery.disk
        used = disk.capacity_bytes - disk._free_bytes()
        disk.capacity_bytes = used + self.random.randrange(0, 2 * SEGMENT_BYTES)
        self._for_a_while(lambda: setattr(disk, "capacity_bytes", 1 << 40))

    def slow_disk(self) -> None:
        self.world.recovery.disk.slow_factor = self.random.choice([10.0, 100.0, 500.0])
        self._for_a_while(lambda: setattr(self.world.recovery.disk, "slow_factor", 1.0), 3.0)

    def restart_standby(self) -> None:
        standby = self.random.choice(list(self.world.recovery.standbys.values()))
        if standby.running and standby.opened is None:
            standby.stop()
            self.world.loop.at(self.world.loop.now + 0.5, standby.start)

    def promote(self) -> None:
        if len(self.world.groups) > 1 or self.random.random() < 0.3:
            self.world.promote(self._group().instance)

    # --- the primaries ----------------------------------------------------------------------

    def kill_shipper(self) -> None:
        self.world.stop_shipper(self._site(), again_in=0.05 + self.random.random())

    def restart_primary(self) -> None:
        server = self._group().current
        server.stop()
        self._for_a_while(server.start, 3.0)

    def change_primary(self) -> None:
        server = self._group().current
        server.stop()
        server.change()
        self._for_a_while(server.start, 2.0)

    def checkpoint(self) -> None:
        for server in self._group().servers:
            server.checkpoint()

    def lose_slot(self) -> None:
        group = self._group()
        group.seed_excuses.append("its slot was lost")
        group.current.lose_slots()

    def operator(self) -> None:
        self.world.look_after(self._group())

    def fail_over(self) -> None:
        """The primary dies; a standby of it that may be behind takes over.  The old one may
        come back and write on."""
        group = self._group()
        if len(group.servers) >= 4:
            return
        old = group.current
        old.stop()
        behind = self.random.choice([1, 1, 2, 3, 6])
        fork = max(old.record_ends[-behind:][0], old.removed_before + 64)
        if fork not in old.record_ends:
            fork = int(old.flush_lsn)
        new = old.forked(self._name(group), self._variant(group), fork)
        self._take_over(group, old, new)

    def restored(self) -> None:
        """As a fail-over, by a server that was set back before and wrote other bytes since, in
        the segment of the fork.  Only there can it be told: see docs/simulation.md."""
        group = self._group()
        old = group.current
        promised = self.world.checker.ledgers[group.instance].promised
        if promised is None or promised.timeline != old.timeline or len(group.servers) >= 4:
            return
        known = [end for end in old.record_ends if end <= promised.lsn]
        if len(known) < 2:
            return
        fork, before = known[-1], known[-2]
        if before < segment_start(fork - 1, SEGMENT_BYTES) or not fork % SEGMENT_BYTES:
            return
        old.stop()
        new = old.forked(self._name(group), self._variant(group), fork, rewritten_from=before)
        self._take_over(group, old, new)

    def _name(self, group: Group) -> str:
        return f"{group.instance}-{len(group.servers) + 1}"

    def _variant(self, group: Group) -> int:
        return group.servers[0].variant + len(group.servers)

    def _take_over(self, group: Group, old: SimServer, new: SimServer) -> None:
        timeline = max(server.timeline for server in group.servers) + 1
        fork = new.flush_lsn
        new.promote(timeline)
        group.seed_excuses.append("a primary took over that may lack WAL or have another line")
        self.world.note("fail-over", instance=group.instance, fork=fork, timeline=timeline)
        self.world.add_server(group, new)
        if not group.follows:
            if self.random.random() < 0.5:
                self.world.stop_shipper(group.sites[-2], again_in=None)
                group.sites[-2].wanted = False
            self.world.new_site(group.sites[-1])
        if self.random.random() < 0.5:
            self._for_a_while(old.start, 5.0)


def _write_now_and_then(world: World, group: Group) -> None:
    random = world.random
    if world.quiet:
        return
    for server in group.servers:
        # An old primary that came back goes on as well.
        if server.up and group.written_bytes < MAX_WRITTEN_BYTES:
            size = random.choice([40, 300, 2000, 8192, 20_000, 50_000])
            size = random.randrange(1, size)
            group.written_bytes += size
            server.write(size)
            if random.random() < 0.04:
                server.switch()
    pause = 0.05 + random.random() ** 2 * 2.0
    world.loop.at(world.loop.now + pause, _write_now_and_then, world, group)


def _make(seed: int) -> tuple[World, Faults]:
    world = World(seed)
    random = world.random
    world.window_bytes = random.choice([16, 64, 256]) * 1024
    world.heartbeat_seconds = random.choice([0.5, 2.0])
    for name in ["orders", "billing"][: random.choice([1, 1, 2])]:
        world.add_group(name, follows=random.random() < 0.5)
    return world, Faults(world)


def _strikes(world: World, faults: Faults, until: float) -> None:
    mean = world.random.choice([0.4, 0.9, 2.5])
    at = 1.0
    while at < until:
        at += world.random.expovariate(1 / mean)
        world.loop.at(at, faults.strike)


def _calm(world: World) -> None:
    """Everything that was broken is whole again and everything that died comes back."""
    world.quiet = True
    world.note("QUIET")
    world.network.abuse = None
    world.network.slow_factor = 1.0
    world.network.heal()
    disk = world.recovery.disk
    disk.capacity_bytes, disk.slow_factor, disk.crash_at = 1 << 40, 1.0, None
    disk._failures.clear()
    if world.recovery.allowed_connections < 200:
        changed = any(group.current.profile_number for group in world.groups.values())
        world.recovery.allowed_connections = 200
        if changed:
            world.applier_dies("kill", again_in=0.1)
    if world.recovery.process is not None:
        world.recovery.process.frozen_until = 0.0
    for group in world.groups.values():
        world.checker.ledgers[group.instance].told_fenced.clear()
        for site in group.sites:
            is_current = group.follows or site.name == group.current.name
            site.wanted = is_current
            if not is_current:
                world.stop_shipper(site, again_in=None)
            else:
                world.start_shipper(site)
        for server in group.servers:
            if server is not group.current:
                server.stop()
        group.current.start()
        group.current.write(500)


def _finish(world: World) -> None:
    begun = world.loop.now
    still = list(world.groups.values())
    while still:
        for group in still:
            world.loop.at(world.loop.now, world.look_after, group)
        world.loop.run(world.loop.now + 1.0)
        still = [group for group in still if world.missing(group)]
        if still and world.loop.now > begun + QUIET_LIMIT_SECONDS:
            world.checker.fail("6", f"{still[0].instance}: {world.missing(still[0])}")
    for group in world.groups.values():
        world.check_end(group)


def _told(world: World) -> Callable[..., Any]:
    """structlog's processor: errors go into the history; a bug is a failure."""

    def processor(logger: Any, method: str, event: dict[str, Any]) -> Any:
        if world.closed:
            raise structlog.DropEvent
        what = event.pop("event")
        error = event.pop("exc_info", None)
        world.note(f"log {method}: {what}", **event)
        if what.startswith("a bug") and error:
            found = error if isinstance(error, BaseException) else sys.exc_info()[1]
            violation = Violation(f"a bug: {''.join(traceback.format_exception(found))}")
            world.loop.errors.append(violation)
        raise structlog.DropEvent

    return processor


def run(
    seed: int,
    *,
    mistake: str = "",
    on_note: Callable[..., None] | None = None,
    log_level: int = 40,
) -> Outcome:
    """Play one seed.  `failure` of what comes back is "" or says which promise was broken.

    mistake: one of `mistakes.MISTAKES` to make in the code under test.
    """
    planted = MISTAKES[mistake]() if mistake else contextlib.nullcontext()
    with wired(Random(seed)), planted:
        world, faults = _make(seed)
        world.on_note = on_note
        structlog.configure(
            processors=[_told(world)],
            wrapper_class=structlog.make_filtering_bound_logger(log_level),
            cache_logger_on_first_use=False,
        )
        failure = ""
        try:
            _play(world, faults)
        except Violation as violation:
            failure = str(violation)
        except (Exception, Stuck) as error:
            failure = f"{type(error).__name__}: {error}\n{_trace(error)}"
        finally:
            world.close()
    return Outcome(
        seed,
        failure,
        world.history,
        world.checker.promises,
        world.checker.what_ifs,
        world.loop.turns,
        world.loop.now,
        [fault.__name__ for fault in faults.enabled],
    )


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _play(world: World, faults: Faults) -> None:
    until = world.random.choice([5.0, 10.0, 20.0])
    world.start_applier()
    for site in world.sites.values():
        world.start_shipper(site)
    for group in world.groups.values():
        world.loop.at(0.1, _write_now_and_then, world, group)
    _strikes(world, faults, until)
    world.loop.run(until)
    _calm(world)
    _finish(world)

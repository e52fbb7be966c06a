"""One applier with many instances: what each costs it, and what they do to each other.

Three stages with real servers: one busy instance alone; all busy ones; and the idle standbys
beside them.  The busy instances have primaries and shippers of their own.  The idle standbys are
copies of one that came by the road, with simulated shippers (`tests.bench.fleet`).  A last stage
has more instances than this machine could run servers for, with everything of an applier but
those.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from logship.postgres.control_file import read_control_file
from tests.bench import machine
from tests.bench.fleet import FleetPair
from tests.bench.measures.latency import Block, Sample, as_block, take
from tests.bench.results import Outcome
from tests.bench.samples import Figure, summarise
from tests.bench.site import PATIENCE_SECONDS, Site
from tests.support.clusters import ClusterTemplates
from tests.support.processes import make_server_directory
from tests.support.servers import PrimaryServer

_ORIGINAL = "original"
_SETTLE_SECONDS = 5.0
_COMMITS_PER_SECOND = 20.0
"""On each busy primary but the one that is measured."""
_MEASURED_STANDBYS = 20
_ASKED = 5


class _Idle(NamedTuple):
    """A while of nothing: the applier's memory, and its CPU in ms a second."""

    pss_mb: float
    cpu: float


def measure(site: Site) -> Outcome:
    figures: dict[str, float] = {}
    raw: list[dict[str, object]] = []
    with _primaries(site) as primaries:
        pair = FleetPair(site.new_directory("f"), site)
        try:
            _measure_real(site, pair, primaries, figures, raw)
        except BaseException:
            site.keep_logs(pair)
            raise
        finally:
            pair.destroy()
            shutil.rmtree(pair.directory, ignore_errors=True)
    pair = FleetPair(site.new_directory("s"), site)
    try:
        _measure_simulated(site, pair, figures)
    finally:
        pair.destroy()
        shutil.rmtree(pair.directory, ignore_errors=True)
    once: dict[str, Figure] = {name: summarise([value]) for name, value in figures.items()}
    return Outcome(once, [*raw, figures], _notes(site))


def _notes(site: Site) -> list[str]:
    sizes = site.sizes
    return [
        f"{sizes.fleet_busy} busy instances with primaries and shippers of their own, "
        f"{_COMMITS_PER_SECOND:g} commits a second on each besides the one that is measured "
        f"({sizes.fleet_samples} commits, on each in turn); {sizes.fleet_idle} idle standbys, "
        "copies of one, with simulated shippers; all on this machine.",
        f"{sizes.fleet_simulated} simulated instances: real sessions, stores and connections to "
        "the WAL server, no PostgreSQL.",
    ]


# --- with servers -------------------------------------------------------------------------


def _measure_real(
    site: Site,
    pair: FleetPair,
    primaries: dict[str, PrimaryServer],
    figures: dict[str, float],
    raw: list[dict[str, object]],
) -> None:
    busy = [name for name in primaries if name != _ORIGINAL]
    idle = [f"idle{number:03d}" for number in range(site.sizes.fleet_idle)]
    numbers = itertools.count(1)
    _seed(site, pair, primaries, busy[:1])
    alone = _lag(site, pair, primaries, busy[:1], numbers)
    _say(site, "alone", alone)
    _seed(site, pair, primaries, [*busy[1:], _ORIGINAL])
    _drop_original(site, pair, primaries, idle)
    _restart(pair)
    _wait_connected(pair, busy)
    before = _idle(site, pair)
    among_busy = _lag(site, pair, primaries, busy, numbers)
    _say(site, "all busy ones", among_busy)
    # 16 MB, as the floor that an idle standby's memory is compared with.
    pair.add_simulated(idle, more="shared_buffers_mb = 16")
    started_at = time.monotonic()
    _restart(pair)
    _wait_streaming(pair, [*busy, *idle])
    figures["fleet_start_seconds"] = time.monotonic() - started_at
    site.say(f"fleet: {len(pair.instances)} standbys stream")
    with pair.simulated(idle, standbys=False):
        _wait_connected(pair, busy)
        after = _idle(site, pair)
        figures |= _of_standbys(site, pair, idle[:_MEASURED_STANDBYS])
        among_all = _lag(site, pair, primaries, busy, numbers)
    _say(site, "with the idle ones", among_all)
    raw += [block._asdict() for block in (alone, among_busy, among_all)]
    figures |= {
        "fleet_idle_mb": (after.pss_mb - before.pss_mb) / len(idle),
        "fleet_idle_cpu": (after.cpu - before.cpu) / len(idle),
        "fleet_applier_mb": after.pss_mb,
        "fleet_lag_p99_ratio": among_all.visible_p99 / alone.visible_p99,
        "fleet_lag_p50_ratio": among_all.visible_p50 / alone.visible_p50,
        "fleet_busy_p99_ratio": among_busy.visible_p99 / alone.visible_p99,
        "fleet_alone_p50_ms": alone.visible_p50,
        "fleet_alone_p99_ms": alone.visible_p99,
        "fleet_lag_p50_ms": among_all.visible_p50,
        "fleet_lag_p99_ms": among_all.visible_p99,
    }


@contextlib.contextmanager
def _primaries(site: Site) -> Iterator[dict[str, PrimaryServer]]:
    """Stopped ones by their instances' names: the busy ones', and `_ORIGINAL`'s last."""
    directory = site.new_directory("primaries")
    home = directory / "templates"
    make_server_directory(home, 0o755)
    templates = ClusterTemplates(home)
    primaries: dict[str, PrimaryServer] = {}
    try:
        names = [f"busy{number}" for number in range(site.sizes.fleet_busy)]
        for name in [*names, _ORIGINAL]:
            primaries[name] = PrimaryServer.create(
                site.installation,
                directory / name,
                # Small segments, as a hundred copies of them have to be made.
                wal_segsize_mb=1 if name == _ORIGINAL else 16,
                settings={**_PRIMARY, "log_replication_commands": "off"},
                templates=templates,
            )
        yield primaries
    finally:
        for primary in primaries.values():
            primary.destroy()
        shutil.rmtree(directory, ignore_errors=True)


_PRIMARY = {"autovacuum": "off", "checkpoint_timeout": "1h"}


def _seed(
    site: Site, pair: FleetPair, primaries: dict[str, PrimaryServer], names: list[str]
) -> None:
    """Have the standbys of these primaries come by the road, and wait until they follow."""
    for name in names:
        primaries[name].start()
        pair.add(name)
        pair.shipper(name, site.conninfo(primaries[name]))
    _restart(pair)
    for name in names:
        pair.shippers[name].start()
    for name in names:
        pair.wait_following(name)


def _drop_original(
    site: Site, pair: FleetPair, primaries: dict[str, PrimaryServer], idle: list[str]
) -> None:
    """Make the idle standbys from the original, which ends with its primary and its shipper."""
    pair.shippers.pop(_ORIGINAL).stop()
    primaries[_ORIGINAL].stop()
    pair.applier.stop()
    pair.stop_standby_of(_ORIGINAL)
    started_at = time.monotonic()
    pair.copy_instance(_ORIGINAL, idle)
    pair.forget(_ORIGINAL)
    site.say(f"{len(idle)} copies of a standby made in {time.monotonic() - started_at:.0f} s")


def _restart(pair: FleetPair) -> None:
    if pair.applier.is_running:
        pair.applier.stop()
    pair.applier.start()


def _wait_connected(pair: FleetPair, names: list[str]) -> None:
    pair.wait_all(names, lambda s: s["link"]["state"] == "connected", "all are connected")


def _wait_streaming(pair: FleetPair, names: list[str]) -> None:
    pair.wait_all(
        names,
        lambda s: s["phase"] == "following" and s["standby"]["replay_lsn"] is not None,
        "all standbys stream",
    )


def _idle(site: Site, pair: FleetPair) -> _Idle:
    time.sleep(min(_SETTLE_SECONDS, site.sizes.fleet_seconds))
    pid = pair.applier.pid
    before = machine.times_of(pid).seconds
    time.sleep(site.sizes.fleet_seconds)
    spent = machine.times_of(pid).seconds - before
    return _Idle(machine.memory_of(pid).pss_mb, spent * 1e3 / site.sizes.fleet_seconds)


def _of_standbys(site: Site, pair: FleetPair, names: list[str]) -> dict[str, float]:
    servers = [machine.with_children(pair.standby_pid(name)) for name in names]
    pids = [pid for server in servers for pid in server]
    before = sum(map(machine.run_seconds, pids))
    time.sleep(site.sizes.fleet_seconds)
    spent = sum(map(machine.run_seconds, pids)) - before
    return {
        "fleet_standby_mb": sum(machine.memory_of(pid).pss_mb for pid in pids) / len(servers),
        "fleet_standby_cpu": spent * 1e3 / site.sizes.fleet_seconds / len(servers),
    }


def _lag(
    site: Site,
    pair: FleetPair,
    primaries: dict[str, PrimaryServer],
    busy: list[str],
    numbers: Iterator[int],
) -> Block:
    """Of commits on each of `busy` in turn, while the others of `busy` have theirs."""
    samples: list[Sample] = []
    polls: list[float] = []
    site.make_ready()
    for name in busy:
        primaries[name].execute("create table if not exists commits (id bigint primary key)")
    with _writing([site.conninfo(primaries[name]) for name in busy[1:]]):
        for name in busy:
            standby = pair.standby_conninfo_of(name)
            pair.wait_on_standby(name, "select to_regclass('commits') is not null", True)
            taken, polled = take(
                site.conninfo(primaries[name]),
                standby,
                numbers,
                site.sizes.latency_warm_up // len(busy),
                site.sizes.fleet_samples // len(busy),
            )
            samples += taken
            polls += polled
    return as_block(samples, polls)


@contextlib.contextmanager
def _writing(conninfos: list[str]) -> Iterator[None]:
    if not conninfos:
        yield
        return
    command = [sys.executable, "-m", "tests.bench.writers", str(_COMMITS_PER_SECOND), *conninfos]
    process = subprocess.Popen(command)
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError("the writers ended")
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _say(site: Site, what: str, block: Block) -> None:
    site.say(
        f"fleet, {what}: visible p50 {block.visible_p50:.2f} ms, p99 {block.visible_p99:.2f} ms"
    )


# --- without servers ----------------------------------------------------------------------


def _measure_simulated(site: Site, pair: FleetPair, figures: dict[str, float]) -> None:
    names = [f"simulated{number:03d}" for number in range(site.sizes.fleet_simulated)]
    site.say("fleet: the servers are gone, now without any")
    control = read_control_file(site.primary.data)
    [(version,)] = site.sql("show server_version_num")
    profile = control.profile(server_version_num=int(version), architecture="")
    pair.make_stored(names[0], profile)
    pair.copy_instance(names[0], names[1:])
    pair.add_simulated(names[:1], more="run_standby = false")
    pair.applier.start()
    pair.wait_status(names[0], lambda s: s["store"]["durable"], "the store is open")
    with pair.simulated(names[:1], standbys=True):
        before = _idle(site, pair)
    pair.add_simulated(names[1:], more="run_standby = false")
    _restart(pair)
    pair.wait_all(names, lambda s: s["store"]["durable"], "the stores are open")
    site.say(f"fleet, {len(names)} simulated: the applier has opened their stores")
    with pair.simulated(names, standbys=True):
        after = _idle(site, pair)
        pid = pair.applier.pid
        figures |= {
            "fleet_simulated_mb": after.pss_mb,
            "fleet_simulated_cpu": after.cpu,
            "fleet_simulated_each_mb": (after.pss_mb - before.pss_mb) / (len(names) - 1),
            "fleet_simulated_each_cpu": (after.cpu - before.cpu) / (len(names) - 1),
            "fleet_simulated_threads": machine.count_of(pid, "task"),
            "fleet_simulated_files": machine.count_of(pid, "fd") / len(names),
            "fleet_status_ms": _ask(pair),
        }
    site.say(f"fleet, {len(names)} simulated: {after.pss_mb:.0f} MB, {after.cpu:.0f} ms/s")


def _ask(pair: FleetPair) -> float:
    times = []
    for _ in range(_ASKED):
        started_at = time.perf_counter()
        pair.client.instances()
        times.append((time.perf_counter() - started_at) * 1e3)
    return summarise(times).median

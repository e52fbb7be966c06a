"""WAL as fast as the primary writes it: how much gets across, and the CPU it costs.

One receiver at a time is attached while the workload runs; the clock stops when the last byte
is flushed by the standby (its own walreceiver's flush), or the last segment has its final name.
Standbys are made anew in each repetition and go through the workload once before, so that both
recycle WAL segments.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench import machine, receivers
from tests.bench.machine import MachineClock, memory_of, times_of
from tests.bench.results import Outcome
from tests.bench.samples import Figure, ratios, summarise
from tests.bench.site import INSTANCE, LOGSHIP, PATIENCE_SECONDS, LogshipPair, Site
from tests.support.waiting import wait_until

Run = dict[str, float]
"""One kind in one repetition: mb_s, and cpu_* in seconds a GB where it was counted."""

Repetition = dict[str, Run]


class _Tools(NamedTuple):
    receivewal: Path | None
    pgbackrest: bool
    notes: list[str]


def measure(site: Site) -> Outcome:
    tools = _find_tools(site)
    site.prepare_source()
    for _ in range(2):  # the primary makes the segments that it recycles from now on
        site.generate()
        site.forget()
    kinds: dict[str, Callable[[Site], Run]] = {
        "native": _native,
        "logship": _logship,
        "alone": _alone,
    }
    if (program := tools.receivewal) is not None:
        kinds["receivewal"] = lambda site: _with_tool(
            site, lambda: receivers.receive_with_receivewal(site, program)
        )
    if tools.pgbackrest:
        kinds["pgbackrest"] = _pgbackrest
    count = site.sizes.repetitions
    repetitions: list[Repetition] = []
    for number in range(count):
        names = list(kinds)
        # Each comes first and last in turn.
        names = names[number % len(names) :] + names[: number % len(names)]
        repetition: Repetition = {}
        for name in names:
            repetition[name] = kinds[name](site)
            site.say(f"rate {number + 1}/{count}: {_said(name, repetition[name])}")
        repetitions.append(repetition)
    return Outcome(_figures(repetitions), repetitions, [_sizes_note(site), *tools.notes])


def _find_tools(site: Site) -> _Tools:
    notes = []
    major = receivers.installation_major(site.installation)
    missing = receivers.install_debian(major)
    if missing:
        notes.append(f"{missing}.")
    receivewal = receivers.ToolFinder(site.installation).receivewal_with_lz4()
    if receivewal is None:
        notes.append("No pg_receivewal here was built with lz4: not compared.")
    pgbackrest = not missing or "pgbackrest" not in missing
    if pgbackrest and major not in receivers.PGBACKREST_MAJORS:
        pgbackrest = False
        notes.append(f"Debian's pgBackRest does not know PostgreSQL {major}: not compared.")
    for note in notes:
        site.say(note)
    return _Tools(receivewal, pgbackrest, notes)


def _said(name: str, run: Run) -> str:
    cpu = "".join(f", {key} {value:.2f} s/GB" for key, value in run.items() if "cpu" in key)
    return f"{name} {run['mb_s']:.0f} MB/s{cpu}"


def _sizes_note(site: Site) -> str:
    return (
        f"{site.sizes.wal_rows} rows of about 1 kB a run, {site.sizes.repetitions} repetitions; "
        "MB and GB are powers of ten. CPU is user and system time of a tool's whole process tree, "
        "without the primary's walsender."
    )


# --- the kinds -----------------------------------------------------------------------------


@contextlib.contextmanager
def _ground(site: Site) -> Iterator[None]:
    """Around what is timed: a clean slate before, the generated table gone afterwards."""
    site.make_ready()
    try:
        yield
    finally:
        site.forget()


def _alone(site: Site) -> Run:
    with _ground(site):
        clock = MachineClock()
        generated = site.generate()
        gigabytes = generated.size_bytes / 1e9
        return {
            "mb_s": generated.size_bytes / 1e6 / generated.seconds,
            "machine_cpu": clock.read()[0] / gigabytes,
        }


def _native(site: Site) -> Run:
    with site.native_standby() as native:
        conninfo = site.conninfo(native)
        site.warm_up(conninfo)
        with _ground(site):
            return _through_standby(site, conninfo)


def _logship(site: Site) -> Run:
    with site.logship() as pair:
        site.warm_up(pair.standby_conninfo)
        _wait_stored(site)
        shipper, applier = pair.shippers[INSTANCE].pid, pair.applier.pid
        with _ground(site):
            for pid in (shipper, applier):
                machine.forget_peak(pid)
            before = times_of(shipper).seconds, times_of(applier).seconds
            run = _through_standby(site, pair.standby_conninfo, pair)
            gigabytes = run["gb"]
            run["shipper_cpu"] = (times_of(shipper).seconds - before[0]) / gigabytes
            run["applier_cpu"] = (times_of(applier).seconds - before[1]) / gigabytes
            run["shipper_mb"] = memory_of(shipper).peak_rss_mb
            run["applier_mb"] = memory_of(applier).peak_rss_mb
            return run


def _through_standby(site: Site, conninfo: str, pair: LogshipPair | None = None) -> Run:
    clock = MachineClock()
    started_at = time.monotonic()
    generated = site.generate()
    received_at = site.wait_received(conninfo, generated.end)
    run = {}
    if pair is not None:
        _wait_stored(site)
        run["stored_mb_s"] = generated.size_bytes / 1e6 / (time.monotonic() - started_at)
    replayed_at = site.wait_replayed(conninfo, generated.end)
    gigabytes = generated.size_bytes / 1e9
    return run | {
        "gb": gigabytes,
        "mb_s": generated.size_bytes / 1e6 / (received_at - started_at),
        "generated_mb_s": generated.size_bytes / 1e6 / generated.seconds,
        "replayed_mb_s": generated.size_bytes / 1e6 / (replayed_at - started_at),
        "machine_cpu": clock.read()[0] / gigabytes,
    }


def _wait_stored(site: Site) -> None:
    """The primary was told that all it has is durable in the store."""
    wait_until(
        lambda: site.sql(
            "select 1 from pg_stat_replication where application_name = %s"
            " and flush_lsn >= pg_current_wal_flush_lsn()",
            LOGSHIP,
        ),
        PATIENCE_SECONDS,
        "everything is durable in the store",
    )


def _with_tool(site: Site, receive: Callable[[], receivers.Received]) -> Run:
    with _ground(site):
        received = receive()
    return {"mb_s": received.mb_s, "cpu": received.cpu_s_per_gb}


def _pgbackrest(site: Site) -> Run:
    tool = receivers.PgBackRest(site)
    with tool.archiving():
        return _with_tool(site, tool.receive)


# --- what came out -------------------------------------------------------------------------


def _figures(repetitions: list[Repetition]) -> dict[str, Figure]:
    def values(kind: str, key: str) -> list[float]:
        return [repetition[kind][key] for repetition in repetitions]

    figures = {
        "rate_ratio": summarise(ratios(values("logship", "mb_s"), values("native", "mb_s"))),
        "rate_mb_s": summarise(values("logship", "mb_s")),
        "stored_mb_s": summarise(values("logship", "stored_mb_s")),
        "native_rate_mb_s": summarise(values("native", "mb_s")),
        "alone_mb_s": summarise(values("alone", "mb_s")),
        "machine_cpu": summarise(values("logship", "machine_cpu")),
        "native_machine_cpu": summarise(values("native", "machine_cpu")),
    }
    for key in ("shipper_cpu", "applier_cpu", "shipper_mb", "applier_mb"):
        figures[key] = summarise(values("logship", key))
    tools: dict[str, str] = {
        "receivewal": "shipper_cpu_ratio",
        "pgbackrest": "shipper_cpu_pgbackrest_ratio",
    }
    for tool, ratio in tools.items():
        if tool in repetitions[0]:
            figures[f"{tool}_mb_s"] = summarise(values(tool, "mb_s"))
            figures[f"{tool}_cpu"] = summarise(values(tool, "cpu"))
            figures[ratio] = summarise(
                ratios(values("logship", "shipper_cpu"), _positive(values(tool, "cpu")))
            )
    return figures


def _positive(values: list[float]) -> list[float]:
    # A quick run may be over before the kernel counts its first tick.
    return [max(value, 1.0 / machine.TICKS_PER_SECOND) for value in values]

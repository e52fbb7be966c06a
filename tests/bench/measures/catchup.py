"""A backlog of bulk WAL: how soon the standby has replayed it all.

Two backlogs, each of the workload written twice.  At the primary: receivers were away while it
was written; timed from the start of the native standby's postmaster, and of `shipper run`, to
the replay of the last byte.  In the store: the standby was away (`run_standby = false`) while
the applier received; timed from the start of `applier run`, which starts the standby.  The
native standby catches up beside each, for the ratio.  Both went through the workload once
before: making WAL segments, which the first catch-up would time, costs as much as replay.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from logship.lsn import Lsn
from tests.bench.results import Outcome
from tests.bench.samples import ratios, summarise
from tests.bench.site import INSTANCE, LOGSHIP, NATIVE, PATIENCE_SECONDS, LogshipPair, Site
from tests.support.servers import PrimaryServer

TABLES = ("generated", "generated_again")
_AWAY = "run_standby = false"
_WHERE = {"primary": "at the primary", "store": "in the store"}

Backlog = dict[str, float]
"""MB/s by who caught up."""


def measure(site: Site) -> Outcome:
    site.prepare_source()
    count = site.sizes.repetitions
    repetitions = []
    with site.native_standby() as native, site.logship() as pair:
        site.say("once through the workload, so that standbys and primary recycle segments")
        _settle(site, native, pair)
        write_backlog(site)
        for number in range(count):
            repetition: dict[str, Backlog] = {}
            first_native = number % 2 == 0
            repetition["primary"] = _at_the_primary(site, native, pair, first_native)
            repetition["store"] = _in_the_store(site, native, pair, first_native)
            repetitions.append(repetition)
            for where, backlog in repetition.items():
                site.say(
                    f"catchup {number + 1}/{count}: {_WHERE[where]}, native "
                    f"{backlog[NATIVE]:.0f} MB/s, Logship {backlog[LOGSHIP]:.0f} MB/s"
                )

    def values(where: str, who: str) -> list[float]:
        return [repetition[where][who] for repetition in repetitions]

    figures = {
        "catchup_ratio": summarise(ratios(values("primary", LOGSHIP), values("primary", NATIVE))),
        "catchup_store_ratio": summarise(ratios(values("store", LOGSHIP), values("store", NATIVE))),
        "catchup_mb_s": summarise(values("primary", LOGSHIP)),
        "native_catchup_mb_s": summarise(values("primary", NATIVE)),
        "catchup_store_mb_s": summarise(values("store", LOGSHIP)),
    }
    note = (
        f"A backlog of 2 × {site.sizes.wal_rows} rows of about 1 kB. What is in the store is "
        "streamed, while the native standby fetches its own from the primary."
    )
    return Outcome(figures, repetitions, [note])


def _at_the_primary(
    site: Site, native: PrimaryServer, pair: LogshipPair, first_native: bool
) -> Backlog:
    _settle(site, native, pair)
    shipper = pair.shippers[INSTANCE]
    shipper.stop()
    native.stop()
    start, target = write_backlog(site)
    runs = {
        NATIVE: lambda: _native_catches_up(site, native, target),
        LOGSHIP: lambda: timed(shipper.start, site, pair.standby_conninfo, target),
    }
    return _in_turn(site, runs, first_native, target - start)


def _in_the_store(
    site: Site, native: PrimaryServer, pair: LogshipPair, first_native: bool
) -> Backlog:
    _settle(site, native, pair)
    pair.applier.stop()
    pair.stop_standby()
    pair.add(INSTANCE, more=_AWAY)
    pair.applier.start()
    site.wait_attached(LOGSHIP)
    native.stop()
    start, target = write_backlog(site)
    pair.wait_status(
        INSTANCE,
        lambda status: (
            status["store"]["durable"] is not None
            and Lsn.parse(status["store"]["durable"].partition(":")[2]) >= target
        ),
        "the backlog is in the store",
        PATIENCE_SECONDS,
    )
    pair.applier.stop()
    pair.add(INSTANCE)
    runs = {
        NATIVE: lambda: _native_catches_up(site, native, target),
        LOGSHIP: lambda: timed(pair.applier.start, site, pair.standby_conninfo, target),
    }
    return _in_turn(site, runs, first_native, target - start)


def _settle(site: Site, native: PrimaryServer, pair: LogshipPair) -> None:
    """Both have replayed all, recently enough that no restart replays much of it again."""
    site.forget(*TABLES)
    for conninfo in (site.conninfo(native), pair.standby_conninfo):
        site.wait_replayed(conninfo, site.flush_lsn())
        site.restart_point(conninfo)


def write_backlog(site: Site) -> tuple[Lsn, Lsn]:
    """The workload twice; returns from where to where it reaches."""
    start = site.flush_lsn()
    for table in TABLES:
        end = site.generate(table).end
    return start, end


def _native_catches_up(site: Site, native: PrimaryServer, target: Lsn) -> float:
    return timed(lambda: native.start(wait=False), site, site.conninfo(native), target)


def timed(launch: Callable[[], None], site: Site, conninfo: str, target: Lsn) -> float:
    """Seconds from `launch` until the standby has replayed `target`."""
    started_at = time.monotonic()
    launch()
    return site.wait_replayed(conninfo, target) - started_at


def _in_turn(
    site: Site, runs: dict[str, Callable[[], float]], first_native: bool, size_bytes: int
) -> Backlog:
    backlog = {}
    for name in (NATIVE, LOGSHIP) if first_native else (LOGSHIP, NATIVE):
        site.make_ready()
        backlog[name] = size_bytes / 1e6 / runs[name]()
    return backlog

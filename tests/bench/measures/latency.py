"""One small commit: how long until the standby shows it, and until a synchronous one has it.

The two roads take turns within a repetition, and the receiver that is not measured is not
attached: on two cores it would only slow the other.  One thread sends the INSERT, waits for
its acknowledgement and asks the standby until it shows the row, so the clocks are one and the
resolution is one poll.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from typing import LiteralString, NamedTuple

from tests.bench.client import Client
from tests.bench.results import Outcome
from tests.bench.samples import Figure, percentile, ratios, summarise
from tests.bench.site import INSTANCE, LOGSHIP, NATIVE, PATIENCE_SECONDS, LogshipPair, Site
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

_NAMES = {NATIVE: "native", LOGSHIP: "Logship"}
_PAUSE_SECONDS = (0.005, 0.015)
_POLLS = 200

_INSERT = "insert into commits values ($1)"
_LOOK = "select 1 from commits where id = $1"


class Sample(NamedTuple):
    """Seconds from sending an INSERT: until acknowledged, until visible on the standby."""

    acknowledged: float
    visible: float


class Block(NamedTuple):
    """Milliseconds of one road in one repetition."""

    ack_p50: float
    ack_p99: float
    visible_p50: float
    """From acknowledged to visible."""
    visible_p99: float
    sent_p50: float
    """From sent to visible."""
    sent_p99: float
    visible_max: float
    poll_p50: float


class _Roads:
    """Attaches one receiver at a time."""

    def __init__(self, site: Site, native: PrimaryServer, pair: LogshipPair) -> None:
        self._site = site
        self._native = native
        self._pair = pair

    def attach(self, road: str) -> str:
        """Only `road` is attached afterwards, with all there is.  Returns its standby."""
        site, native, shipper = self._site, self._native, self._pair.shippers[INSTANCE]
        if road == NATIVE:
            if shipper.is_running:
                shipper.stop()
            if not native.is_running:
                native.start()
            conninfo = site.conninfo(native)
        else:
            if native.is_running:
                native.stop()
            if not shipper.is_running:
                shipper.start()
            conninfo = self._pair.standby_conninfo
        site.wait_attached(road)
        site.wait_replayed(conninfo, site.flush_lsn())
        return conninfo


def measure_visible(site: Site) -> Outcome:
    blocks: dict[str, list[Block]] = {NATIVE: [], LOGSHIP: []}
    site.sql("create table commits (id bigint primary key)")
    with site.native_standby() as native, site.logship() as pair:
        roads = _Roads(site, native, pair)
        numbers = iter(range(1, 1 << 62))
        for repetition, order in _orders(site):
            site.make_ready()
            for road in order:
                block = _run_block(site, roads.attach(road), numbers)
                blocks[road].append(block)
                site.say(
                    f"visible {repetition}: {_NAMES[road]} p50 {block.visible_p50:.2f} ms, "
                    f"p99 {block.visible_p99:.2f} ms"
                )
    site.sql("drop table commits")
    ours, theirs = blocks[LOGSHIP], blocks[NATIVE]
    polls = [block.poll_p50 for block in ours + theirs]
    figures = {
        "visible_p50_ratio": _ratio(ours, theirs, lambda block: block.visible_p50),
        "visible_p99_ratio": _ratio(ours, theirs, lambda block: block.visible_p99),
        "visible_sent_p50_ratio": _ratio(ours, theirs, lambda block: block.sent_p50),
        "visible_p50_ms": summarise([block.visible_p50 for block in ours]),
        "visible_p99_ms": summarise([block.visible_p99 for block in ours]),
        "native_visible_p50_ms": summarise([block.visible_p50 for block in theirs]),
        "native_visible_p99_ms": summarise([block.visible_p99 for block in theirs]),
        "poll_ms": summarise(polls),
    }
    return Outcome(figures, _repetitions(blocks), [_samples_note(site)])


def measure_sync(site: Site) -> Outcome:
    blocks: dict[str, list[Block]] = {NATIVE: [], LOGSHIP: []}
    site.sql("create table commits (id bigint primary key)")
    try:
        with site.native_standby() as native, site.logship(protection="sync") as pair:
            roads = _Roads(site, native, pair)
            numbers = iter(range(1, 1 << 62))
            for repetition, order in _orders(site):
                site.make_ready()
                for road in order:
                    conninfo = roads.attach(road)
                    _require(site, road)
                    block = _run_block(site, conninfo, numbers)
                    _require(site, "")
                    blocks[road].append(block)
                    site.say(
                        f"sync {repetition}: {_NAMES[road]} p50 {block.ack_p50:.2f} ms, "
                        f"p99 {block.ack_p99:.2f} ms"
                    )
    finally:
        _require(site, "")
    site.sql("drop table commits")
    ours, theirs = blocks[LOGSHIP], blocks[NATIVE]
    figures = {
        "sync_commit_ratio": _ratio(ours, theirs, lambda block: block.ack_p50),
        "sync_commit_p99_ratio": _ratio(ours, theirs, lambda block: block.ack_p99),
        "sync_commit_p50_ms": summarise([block.ack_p50 for block in ours]),
        "sync_commit_p99_ms": summarise([block.ack_p99 for block in ours]),
        "native_sync_commit_p50_ms": summarise([block.ack_p50 for block in theirs]),
        "native_sync_commit_p99_ms": summarise([block.ack_p99 for block in theirs]),
    }
    note = _samples_note(site) + " synchronous_commit is on: a commit waits for the remote flush."
    return Outcome(figures, _repetitions(blocks), [note])


def _run_block(site: Site, standby_conninfo: str, numbers: Iterator[int]) -> Block:
    sizes = site.sizes
    return run_block(
        site.conninfo(),
        standby_conninfo,
        numbers,
        warm_up=sizes.latency_warm_up,
        samples=sizes.latency_samples,
    )


def _orders(site: Site) -> Iterator[tuple[str, tuple[str, str]]]:
    count = site.sizes.latency_repetitions
    for number in range(count):
        order = (NATIVE, LOGSHIP) if number % 2 == 0 else (LOGSHIP, NATIVE)
        yield f"{number + 1}/{count}", order


def _require(site: Site, road: str) -> None:
    """Make `road` the synchronous standby and wait until it is; "" for none."""
    value: LiteralString = "''" if not road else f"'{road}'"
    site.sql(f"alter system set synchronous_standby_names = {value}")
    site.primary.reload()
    if road:
        wait_until(
            lambda: site.sql(
                "select 1 from pg_stat_replication where application_name = %s"
                " and sync_state = 'sync'",
                road,
            ),
            60,
            f"{road} is synchronous",
        )


def run_block(
    primary_conninfo: str,
    standby_conninfo: str,
    numbers: Iterator[int],
    *,
    warm_up: int,
    samples: int,
) -> Block:
    """`samples` commits, one after the other, each until it is visible on the standby."""
    return as_block(*take(primary_conninfo, standby_conninfo, numbers, warm_up, samples))


def take(
    primary_conninfo: str,
    standby_conninfo: str,
    numbers: Iterator[int],
    warm_up: int,
    samples: int,
) -> tuple[list[Sample], list[float]]:
    """The samples of `run_block`, and the seconds of single polls."""
    with (
        Client(primary_conninfo, _INSERT) as primary,
        Client(standby_conninfo, _LOOK) as standby,
    ):
        pauses = random.Random(0)
        gc.disable()
        try:
            taken = [
                _sample(primary, standby, next(numbers), pauses.uniform(*_PAUSE_SECONDS))
                for _ in range(warm_up + samples)
            ][warm_up:]
            polls = _time_polls(standby)
        finally:
            gc.enable()
    return taken, polls


def _sample(primary: Client, standby: Client, number: int, pause_seconds: float) -> Sample:
    time.sleep(pause_seconds)
    deadline = time.perf_counter() + PATIENCE_SECONDS
    sent_at = time.perf_counter()
    primary.run(number)
    acknowledged_at = time.perf_counter()
    while not standby.run(number):
        if time.perf_counter() > deadline:
            raise TimeoutError(f"row {number} never became visible")
    return Sample(acknowledged_at - sent_at, time.perf_counter() - sent_at)


def _time_polls(standby: Client) -> list[float]:
    times = []
    for _ in range(_POLLS):
        started_at = time.perf_counter()
        standby.run(-1)
        times.append(time.perf_counter() - started_at)
    return times


def as_block(samples: list[Sample], polls: list[float]) -> Block:
    """What `take` took, in figures."""
    acks = [sample.acknowledged * 1e3 for sample in samples]
    visibles = [(sample.visible - sample.acknowledged) * 1e3 for sample in samples]
    sents = [sample.visible * 1e3 for sample in samples]
    return Block(
        percentile(acks, 50),
        percentile(acks, 99),
        percentile(visibles, 50),
        percentile(visibles, 99),
        percentile(sents, 50),
        percentile(sents, 99),
        max(visibles),
        percentile(polls, 50) * 1e3,
    )


def _ratio(ours: list[Block], theirs: list[Block], of: Callable[[Block], float]) -> Figure:
    return summarise(ratios([of(block) for block in ours], [of(block) for block in theirs]))


def _repetitions(blocks: dict[str, list[Block]]) -> list[dict[str, dict[str, float]]]:
    pairs = zip(blocks[NATIVE], blocks[LOGSHIP], strict=True)
    return [{NATIVE: theirs._asdict(), LOGSHIP: ours._asdict()} for theirs, ours in pairs]


def _samples_note(site: Site) -> str:
    sizes = site.sizes
    return (
        f"{sizes.latency_samples} single-row commits a road and repetition, "
        f"{sizes.latency_repetitions} repetitions, 5 to 15 ms apart."
    )

"""A base backup onto the recovery server's disk, durable: Logship's road and pg_basebackup.

pg_basebackup writes a plain directory and fsyncs it, as its default is.  Logship's clock runs
from the request to the applier's word that the seed is verified, durable and in place.  Both
without WAL, with a fast checkpoint.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from applier.receivers.seed import placement
from tests.bench.results import Outcome
from tests.bench.samples import ratios, summarise
from tests.bench.site import INSTANCE, LOOK_SECONDS, PATIENCE_SECONDS, LogshipPair, Site


def measure(site: Site) -> Outcome:
    site.prepare_source()
    site.say("filling the cluster that is seeded")
    rows = site.sizes.seed_rows
    site.sql(f"create table big as select * from source limit {rows}")
    # As many bytes in rows of pgbench_accounts' shape, 97 + 24 bytes each.
    site.sql(
        "create table accounts as select i as aid, i % 100 as bid, 0 as abalance,"
        f" repeat(' ', 84)::char(84) as filler from generate_series(1, {rows * 8}) as i"
    )
    site.sql("checkpoint")
    count = site.sizes.repetitions
    repetitions = []
    for number in range(count):
        runs = [_basebackup, _logship] if number % 2 == 0 else [_logship, _basebackup]
        repetition: dict[str, float] = {}
        for run in runs:
            site.sql("checkpoint")
            repetition |= run(site)
        repetitions.append(repetition)
        site.say(
            f"seed {number + 1}/{count}: pg_basebackup {repetition['basebackup_seconds']:.2f} s, "
            f"Logship {repetition['logship_seconds']:.2f} s"
        )
    site.forget("big", "accounts")

    def rates(key: str) -> list[float]:
        return [repetition["mb"] / repetition[key] for repetition in repetitions]

    ours, theirs = rates("logship_seconds"), rates("basebackup_seconds")
    figures = {
        "seed_ratio": summarise(ratios(ours, theirs)),
        "seed_mb_s": summarise(ours),
        "basebackup_mb_s": summarise(theirs),
    }
    note = f"A cluster of {repetitions[0]['mb']:.0f} MB, as pg_basebackup wrote it."
    return Outcome(figures, repetitions, [note])


def _basebackup(site: Site) -> dict[str, float]:
    directory = site.new_directory("basebackup")
    # The target's parent must be the server user's for pg_basebackup to make it.
    shutil.chown(directory, *_owner(site.primary.data))
    site.make_ready()
    started_at = time.monotonic()
    site.base_backup(directory / "data")
    seconds = time.monotonic() - started_at
    size_bytes = sum(
        (Path(where) / name).stat().st_size
        for where, _, names in os.walk(directory)
        for name in names
    )
    shutil.rmtree(directory)
    return {"basebackup_seconds": seconds, "mb": size_bytes / 1e6}


def _owner(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_uid, state.st_gid


def _logship(site: Site) -> dict[str, float]:
    with site.logship(more='seed = "manual"', seeded=False) as pair:
        pair.wait_status(
            INSTANCE, lambda status: status["link"]["state"] == "connected", "the link is up"
        )
        site.make_ready()
        started_at = time.monotonic()
        pair.client.request_seed(INSTANCE, "the benchmark")
        deadline = started_at + PATIENCE_SECONDS
        # On the disk: asking the applier a hundred times a second cost it a second of CPU.
        while not _is_placed(pair):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no seed; {pair.applier.log[-2000:]}")
            time.sleep(LOOK_SECONDS)
        placed_at = time.monotonic()
        pair.wait_following(INSTANCE)
        return {
            "logship_seconds": placed_at - started_at,
            "logship_following_seconds": time.monotonic() - started_at,
        }


def _is_placed(pair: LogshipPair) -> bool:
    instance = pair.directory / "applier" / "instances" / INSTANCE
    records = instance.glob(f"*/{placement.RECORD_NAME}")
    return any(
        not placement.is_unfinished(path.parent) and placement.read_placement(path.parent)
        for path in records
    )

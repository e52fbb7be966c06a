"""No seed may break a promise; the same seed is the same history; and enough happens in them."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.__main__ import play, report
from tests.simulation.scenario import Outcome, run

SEEDS = 2000
CHUNK_SEEDS = 100
"""A chunk is a test, so that several can run at once."""


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK_SEEDS))
def test_every_promise_is_kept(first: int) -> None:
    for seed in range(first, first + CHUNK_SEEDS):
        outcome = run(seed)
        assert not outcome.failure, report(outcome)


@pytest.mark.parametrize("seed", [3, 7, 11, 19])
def test_the_same_seed_gives_the_same_history(seed: int) -> None:
    """Also in another process, where sets and addresses have another order."""
    here = run(seed)
    script = (
        f"from tests.simulation.scenario import run; run({seed + 1}); print(run({seed}).digest())"
    )
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here.digest()


def test_the_faults_lead_to_what_they_should() -> None:
    """A simulation in which nothing happens would keep every promise too."""
    seen: Counter[str] = Counter()
    promises = what_ifs = 0
    for seed in range(100_000, 100_150):
        outcome = run(seed)
        assert not outcome.failure, report(outcome)
        promises += outcome.promises
        what_ifs += outcome.what_ifs
        kinds = {
            f"{what} {facts['kind']}" if what == "FAULT" else what
            for _, what, facts in outcome.history
        }
        codes = {str(facts["code"]) for _, _, facts in outcome.history if "code" in facts}
        seen.update(kinds | codes)
    assert promises > 1000
    assert what_ifs > 200
    wanted = {
        "fence", "opening", "promotion", "fail-over", "operator seeds", "chain begins",
        "applier died", "ResumeAt", "Fenced", "seed placed", "FAULT abuse", "FAULT lose_slot",
        "wal-conflict", "wal-gap", "disk-full", "store-failed", "standby-ahead-of-fork",
        "compatibility", "checksum-mismatch", "slot-lost", "applier did not start",
    }  # fmt: skip
    assert not wanted - set(seen)


def _played(directory: Path, seed: int) -> Outcome:
    (directory / str(seed)).touch()
    return Outcome(seed, "broken" if seed == 3 else "", [], 0, 0, 0, 0.0, [])


def test_a_failure_ends_a_long_run(tmp_path: Path) -> None:
    """Of a run over several processes, too: the seeds that nobody has begun are left out."""
    seeds = range(20_000)
    with contextlib.closing(play(seeds, 2, functools.partial(_played, tmp_path))) as outcomes:
        failed = next(outcome for outcome in outcomes if outcome.failure)
    assert failed.seed == 3
    assert len(os.listdir(tmp_path)) < len(seeds) // 2

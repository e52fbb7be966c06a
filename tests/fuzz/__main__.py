"""`python -m tests.fuzz [--seconds 60] [--target NAME …]` (`make fuzz`): the targets for long.

Goes on from the inputs found before (build/fuzz/inputs).  What broke something is kept in
build/fuzz/findings/TARGET/, and the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.target import HERE, load, names
from tests.support.arguments import count

ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "fuzz"
INPUT_SECONDS = 10
"""Longer than this over one input is a hang; the longest take milliseconds."""


class Outcome(NamedTuple):
    """What became of one target."""

    name: str
    runs: int
    findings: list[Path]
    """Inputs that broke something in this run."""
    output: str
    status: int


def fuzz(name: str, inputs: Path, findings: Path, *options: str) -> Outcome:
    """Run a target's process to its end.  `inputs` is read and grows; `findings` gets those
    that break something."""
    target = load(name)
    for directory in (inputs, findings):
        directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (inputs / f"seed-{number}").write_bytes(seed)
    for stored in target.stored:
        (inputs / f"stored-{stored.name}").write_bytes(stored.read_bytes())
    before = set(findings.iterdir())
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.fuzz.process",
            name,
            f"-artifact_prefix={findings}/",
            f"-timeout={INPUT_SECONDS}",
            "-print_final_stats=1",
            "-verbosity=1",
            *options,
            str(inputs),
        ],
        cwd=ROOT,
        # Sets and dicts are to be in the same order in every run.
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    counted = re.search(r"^stat::number_of_executed_units: (\d+)", done.stdout, re.MULTILINE)
    found = sorted(set(findings.iterdir()) - before)
    return Outcome(name, int(counted[1]) if counted else 0, found, done.stdout, done.returncode)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=count, default=60, help="for each target")
    parser.add_argument("--target", action="append", choices=names(), help="only this one")
    parser.add_argument("--jobs", type=count, default=os.cpu_count() or 1)
    options = parser.parse_args()

    def run(name: str) -> Outcome:
        return fuzz(
            name,
            BUILD / "inputs" / name,
            BUILD / "findings" / name,
            f"-max_total_time={options.seconds}",
        )

    failed = False
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(run, options.target or names()):
            print(f"{outcome.name:20} {outcome.runs:>10,} executions", flush=True)
            if outcome.status:
                failed = True
                print(outcome.output[-4000:])
                for path in outcome.findings:
                    print(f"kept: {path.relative_to(ROOT)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

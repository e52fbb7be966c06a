"""`python -m tests.simulation --seed N [--steps]`, or `--seeds COUNT [--from N] [--jobs J]`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.scenario import Outcome, describe, run
from tests.support.arguments import count

TAIL_LINES = 60
CHUNK_SEEDS = 50
"""What a process plays before it tells of them."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="play this one seed")
    parser.add_argument("--steps", action="store_true", help="print all that happens in it")
    parser.add_argument("--seeds", type=count, default=2000, help="how many to play")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them")
    parser.add_argument("--jobs", type=count, default=1, help="processes to play them in")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at a failure")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _one(arguments.seed, steps=arguments.steps)
    return _many(arguments.first, arguments.seeds, arguments.jobs, arguments.keep_going)


def _one(seed: int, *, steps: bool) -> int:
    show = (lambda *entry: print(describe(*entry))) if steps else None
    outcome = run(seed, on_note=show, log_level=10 if steps else 40)
    print(report(outcome, tail=not steps))
    return 1 if outcome.failure else 0


def report(outcome: Outcome, *, tail: bool = True) -> str:
    """What to print of a seed: the end of its history if it failed."""
    if not outcome.failure:
        return (
            f"seed {outcome.seed}: all promises kept ({outcome.promises} acknowledgements, "
            f"{outcome.simulated_seconds:.0f} simulated seconds)"
        )
    lines = [describe(*entry) for entry in outcome.history[-TAIL_LINES:]] if tail else []
    again = f"python -m tests.simulation --seed {outcome.seed} --steps"
    return "\n".join([*lines, f"seed {outcome.seed} BROKE {outcome.failure}", f"replay: {again}"])


def _many(first: int, count: int, jobs: int, keep_going: bool) -> int:
    started_at = time.monotonic()
    done = failed = promises = 0
    with contextlib.closing(play(range(first, first + count), jobs)) as outcomes:
        for done, outcome in enumerate(outcomes, 1):
            promises += outcome.promises
            if outcome.failure:
                failed += 1
                print(report(outcome), flush=True)
                if not keep_going:
                    break
            if done % 1000 == 0:
                seconds = time.monotonic() - started_at
                print(f"{done} seeds, {done / seconds:.0f}/s", file=sys.stderr, flush=True)
    seconds = time.monotonic() - started_at
    print(f"{done} seeds in {seconds:.0f} s, {promises} acknowledgements, {failed} failures")
    return 1 if failed else 0


def play(
    seeds: range, jobs: int, play_one: Callable[[int], Outcome] | None = None
) -> Generator[Outcome, None, None]:
    """What comes of `seeds`, in their order.  Once it is closed only what the processes have at
    hand is played to its end.

    play_one: what to call for a seed, if not the simulation.
    """
    play_one = play_one or _run_briefly
    if jobs == 1:
        yield from map(play_one, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(play_one, seeds, chunksize=CHUNK_SEEDS)
        finally:
            pool.shutdown(cancel_futures=True)


def _run_briefly(seed: int) -> Outcome:
    """Without the history of a seed that was well: it is long, and nobody reads it."""
    outcome = run(seed)
    return outcome if outcome.failure else outcome._replace(history=[])


if __name__ == "__main__":
    sys.exit(main())

"""Rounds of new seeds until the time is over, or one round: `python -m tests.torture -h`."""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path

from tests.support.arguments import minutes
from tests.support.clusters import ClusterTemplates
from tests.support.processes import give_to_server
from tests.torture.plan import make_plan
from tests.torture.round import Round


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=minutes, default=10.0, help="start rounds for so long")
    parser.add_argument("--seed", type=int, help="run this seed alone, told as it goes")
    parser.add_argument("--first", type=int, help="run the seeds from this one on")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failed round")
    args = parser.parse_args()
    if args.seed is not None:
        return 0 if run_round(args.seed, aloud=True) else 1
    seed = args.first if args.first is not None else random.SystemRandom().randrange(1 << 30)
    deadline = time.monotonic() + 60 * args.minutes
    failed: list[int] = []
    rounds = 0
    while time.monotonic() < deadline:
        rounds += 1
        if not run_round(seed, aloud=False):
            failed.append(seed)
            if not args.keep_going:
                break
        seed += 1
    print(f"{rounds} rounds, {len(failed)} failed {failed or ''}".rstrip(), flush=True)
    return 1 if failed else 0


def run_round(seed: int, *, aloud: bool) -> bool:
    """Whether the round of `seed` found nothing wrong."""
    plan = make_plan(seed)
    directory = Path(tempfile.mkdtemp(prefix="logship-"))
    directory.chmod(0o755)
    templates = directory / "templates"
    templates.mkdir()
    give_to_server(templates)
    home = directory / "round"
    home.mkdir(mode=0o755)
    began_at = time.monotonic()
    said: list[str] = []

    def say(line: str) -> None:
        stamped = f"  [{time.monotonic() - began_at:6.2f}] {line}"
        said.append(stamped)
        if aloud:
            print(stamped, flush=True)

    if aloud:
        print(plan, flush=True)
    torture: Round | None = None
    try:
        torture = Round(plan, home, ClusterTemplates(templates), say)
        found = torture.run()
    except Exception as error:
        print(f"FAILED, seed {seed}: {type(error).__name__}: {error}", *said, sep="\n")
        print(*getattr(error, "__notes__", ()), sep="\n", flush=True)
        print(f"again: python -m tests.torture --seed {seed}", flush=True)
        return False
    finally:
        if torture is not None:
            torture.destroy()
        shutil.rmtree(directory, ignore_errors=True)
    seconds = time.monotonic() - began_at
    skipped = f" (left out: {'; '.join(torture.skipped)})" if torture.skipped else ""
    print(f"seed {seed} ({plan.major} {plan.protection}, {seconds:.1f} s): {found}{skipped}")
    return True


if __name__ == "__main__":
    raise SystemExit(main())

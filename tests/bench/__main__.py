"""`python -m tests.bench`: measure, print, and leave build/bench.json and build/bench.svg."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tests.bench import chart, machine, page, results
from tests.bench.catalog import KEYS, MEASURES
from tests.bench.checkout import commit_of
from tests.bench.measures import MEASURERS
from tests.bench.receivers import ToolFinder
from tests.bench.results import Document
from tests.bench.site import Site
from tests.bench.sizes import FULL, QUICK, Sizes
from tests.support.installations import postgres_dir

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"

DEFAULT_MAJOR = 15
"""The newest that Debian 12 has all tools of the comparison for."""

BUSY_SHARE = 0.1
"""A machine that does more than this beside us gives figures that mean little."""


def main() -> int:
    args = _arguments()
    sizes = QUICK if args.quick else FULL
    if args.repetitions:
        sizes = sizes._replace(repetitions=args.repetitions, promotions=args.repetitions)
    whole_sizes = sizes == FULL
    stem = "bench" if whole_sizes else "bench-quick"
    out = ROOT / "build" / stem
    document = results.load(out.with_suffix(".json"))
    started_at = time.monotonic()

    def say(text: str) -> None:
        seconds = time.monotonic() - started_at
        print(f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}  {text}", flush=True)

    _end_cleanly_when_told()
    # Programs that are installed have their byte code beside them.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    failed = []
    with _directory(args.directory) as directory:
        _check_room(directory, sizes)
        installation = args.installation or _find_installation()
        document["machine"] = machine.facts(directory)
        document["software"] = _software(installation)
        say(f"PostgreSQL in {installation}, data in {directory}")
        with Site(directory, installation, ToolFinder(installation), sizes, say) as site:
            for measure in args.only:
                document, well = _run(site, measure, document)
                failed += [] if well else [measure]
                _publish(out, document, whole_sizes=whole_sizes)
    print(page.table(document, args.only))
    print(f"\n{out}.json and {out}.svg are written")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(site: Site, measure: str, document: Document) -> tuple[Document, bool]:
    busy = machine.settle(BUSY_SHARE, site.sizes.settle_seconds)
    if busy > BUSY_SHARE:
        site.say(f"the machine is {busy:.0%} busy with other things: figures mean little")
    site.say(f"{MEASURES[measure]} …")
    started_at = time.monotonic()
    try:
        outcome = MEASURERS[measure](site)
    except Exception as error:
        traceback.print_exc()
        _restore(site)
        why = f"{type(error).__name__}: {error}"[:500]
        return results.fail(document, measure, why, _now()), False
    site.say(f"{MEASURES[measure]}: done in {time.monotonic() - started_at:.0f} s")
    about: dict[str, Any] = {
        "measured_at": _now(),
        "seconds": time.monotonic() - started_at,
        "commit": commit_of(ROOT, PAGE),
        "busy_before": busy,
    }
    return results.merge(document, measure, outcome, about), True


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _restore(site: Site) -> None:
    """After a failed measure: drop what it may have left, so that the next one can run."""
    if not site.primary.is_running:
        site.primary.start()
    site.forget("commits", "generated", "generated_again", "big", "accounts", "promoted")


def _publish(out: Path, document: Document, *, whole_sizes: bool) -> None:
    results.save(out.with_suffix(".json"), document)
    out.with_suffix(".svg").write_text(chart.chart(document), encoding="utf-8")
    if whole_sizes:
        page.write(PAGE, document)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench",
        description="Measure Logship beside PostgreSQL's own replication (docs/performance.md).",
        epilog=f"build/bench.json: medians under {', '.join(KEYS)}.",
    )
    parser.add_argument(
        "--only",
        metavar="M,M",
        type=_measures,
        default=list(MEASURES),
        help=f"these measures, the others' last results are kept: {','.join(MEASURES)}",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes, to see that it works; writes build/bench-quick.* and no documentation",
    )
    parser.add_argument(
        "--repetitions",
        metavar="N",
        type=int,
        help="of what moves much data, and promotions; results go where those of --quick go",
    )
    parser.add_argument(
        "--installation",
        metavar="DIR",
        type=Path,
        help=f"PostgreSQL to measure with, has bin/ (default: a PostgreSQL {DEFAULT_MAJOR})",
    )
    parser.add_argument(
        "--directory",
        metavar="DIR",
        type=Path,
        help="where the data goes (default: the system's directory for temporary files)",
    )
    return parser.parse_args()


def _measures(text: str) -> list[str]:
    asked = text.split(",")
    if unknown := [name for name in asked if name not in MEASURES]:
        raise argparse.ArgumentTypeError(f"no such measure: {', '.join(unknown)}")
    return [name for name in MEASURES if name in asked]


@contextlib.contextmanager
def _directory(parent: Path | None) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="logship-bench-", dir=parent))
    directory.chmod(0o755)  # the servers' user must get in
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _check_room(directory: Path, sizes: Sizes) -> None:
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < sizes.needed_disk_bytes:
        raise SystemExit(
            f"{directory} has {free_bytes / 1e9:.0f} GB free, this run needs "
            f"{sizes.needed_disk_bytes / 1e9:.0f}: choose another with --directory"
        )


def _find_installation() -> Path:
    """Debian's, which is built for speed, else one that `make postgres` fetched."""
    debian = Path(f"/usr/lib/postgresql/{DEFAULT_MAJOR}")
    if (debian / "bin" / "postgres").exists() and (debian / "bin" / "initdb").exists():
        return debian
    return postgres_dir(DEFAULT_MAJOR)


def _software(installation: Path) -> dict[str, str]:
    return {
        "PostgreSQL": _said(installation / "bin" / "postgres", "--version"),
        "pgBackRest": _said("pgbackrest", "version"),
        "Python": platform.python_version(),
    }


def _said(*command: str | Path) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "not here"
    return done.stdout.strip().rpartition("(PostgreSQL) ")[2].removeprefix("pgBackRest ")


def _end_cleanly_when_told() -> None:
    def end(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    handler: Callable[[int, FrameType | None], NoReturn] = end
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, handler)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())

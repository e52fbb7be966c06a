"""Prove that an instance can be recovered: restore it to the latest moment, open it, take it away.

It goes into a directory of its own, on a socket of its own, beside the applier; the standby, the
store and the shipper go on as if nothing was.  It starts from the newest kept seed, so one must be
kept (seeds.keep, or a bucket), and it needs the room of one more copy.

What came of it stands in `shipper status`; a drill that failed is an alarm until one passes.  Exits
0 only if the recovered server took a write and let every database be read.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from applier.commands.restore import readable
from applier.commands.window import add_source_arguments, places_of
from applier.fleet.settings import load_effective_settings
from logship.commandline import add_json_argument, print_json
from logship.errors import ExitCode
from logship.progress import Progress
from logship.status_words import duration

if TYPE_CHECKING:
    from applier.restore.drilling import Drilled

_ENDING = (signal.SIGTERM, signal.SIGHUP)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the instance")
    parser.add_argument(
        "--into",
        metavar="DIR",
        type=Path,
        help="an empty or new directory (default: drills/NAME on the volume of its standby)",
    )
    parser.add_argument(
        "--read-tables",
        action="store_true",
        help="read every row as well: slow where there are many, and it finds damaged pages",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="with --into: leave the recovered server running, to be looked at; it is yours",
    )
    add_source_arguments(parser)
    # Another line than the newest says nothing about today.
    parser.set_defaults(timeline=None)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    settings = load_effective_settings(args.config)
    from applier.restore.drilling import Wanted, drill
    from logship.logs import set_up_logs
    from logship.settings import LogSettings

    # The steps are told here; of the log only what a person must see.
    set_up_logs(LogSettings(level="error", format=settings.log.format))
    wanted = Wanted(args.into, args.read_tables, args.keep)
    progress = Progress(as_json=args.json)

    def report(step: str, details: dict[str, Any]) -> None:
        # A terminal that is gone, or a full disk, is no reason why it should not pass.
        with contextlib.suppress(OSError):
            progress.step(step, details)

    with _ended_by_signals():
        drilled = drill(settings, args.name, places_of(args), wanted, report)
    if args.json:
        print_json(_document(args.name, drilled, keep=args.keep))
        return ExitCode.DONE
    print()
    for name, value in _readable(args.name, drilled, keep=args.keep):
        print(f"  {name:<12}  {value}")
    return ExitCode.DONE


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """The first of these ends what is inside as Ctrl-C does; those after it do not disturb what
    then stops the server and removes it."""
    ending = [each for each in _ENDING if signal.getsignal(each) != signal.SIG_IGN]

    def end(_number: int, _frame: FrameType | None) -> None:
        for each in ending:
            signal.signal(each, lambda _number, _frame: None)
        raise KeyboardInterrupt

    before = {each: signal.signal(each, end) for each in ending}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _document(name: str, drilled: Drilled, *, keep: bool) -> dict[str, Any]:
    drill = drilled.drill
    return {
        "name": name,
        "passed": True,
        "at": drill.at,
        "seconds": drill.seconds,
        "timeline": drill.timeline,
        "lsn": drill.lsn,
        "last_commit_time": drill.last_commit_time,
        "databases": drilled.databases,
        "tables": drilled.tables,
        "restored": drilled.restored if keep else None,
    }


def _readable(name: str, drilled: Drilled, *, keep: bool) -> Iterator[tuple[str, str]]:
    drill, restored = drilled.drill, drilled.restored
    yield "passed", f"{name} opened for writing {duration(drill.seconds)} after the drill began"
    took = restored["seconds"]
    yield (
        "of it",
        ", ".join(f"{each} {duration(took[each])}" for each in ("seed", "replay", "open")),
    )
    tables = f", and the rows of {drilled.tables} tables" if drilled.tables else ""
    yield "read", f"the catalogs of {drilled.databases} databases{tables}"
    if keep:
        yield from readable(restored)
        return
    yield "position", f"timeline {drill.timeline}, LSN {drill.lsn}"
    yield "last commit", restored["last_commit"] or "none in the WAL that is kept"
    for complaint in restored["complaints"]:
        yield "look at", complaint

"""Rehearse a change on throw-away servers, and say whether protection would survive it.

Builds a primary with a shipper and a recovery server with an applier, as they are now: in
containers, or with --engine local in directories of this host.  Then makes the steps of a plan,
or what the flags say, one after the other.  Before each the version check is asked, on copies;
after each it is looked at whether WAL flows, a promotion works, and what was promoted is equal
to its primary.  Nothing of yours is touched, and nothing stays behind.

Exits with 3 if protection would break, or if a step could not be made or looked at.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from logship import durable
from logship.commandline import add_json_argument, print_json
from logship.documents import not_written
from logship.errors import Code, ExitCode, UsageError
from logship.redaction import redact
from logship.terminal import Terminal, paint
from shipper.commands.rehearse_flags import add_flags, flags_of, given

if TYPE_CHECKING:
    from logship.rehearsal.outcome import Report
    from logship.rehearsal.plan import Plan

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _EndedError(BaseException):
    """A signal asks to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", type=Path, nargs="?", help="the plan's TOML file")
    parser.add_argument(
        "--engine",
        choices=("docker", "local"),
        default="docker",
        help='"docker": in containers; "local": with the PostgreSQL installations of this host, '
        "which images then name (default: %(default)s)",
    )
    parser.add_argument("--html", metavar="F", type=Path, help="write the report as an HTML page")
    parser.add_argument("--junit", metavar="F", type=Path, help="write the report as JUnit XML")
    add_json_argument(parser)
    add_flags(parser)


def run(args: argparse.Namespace) -> int:
    plan = _plan_of(args)
    _check_files(args)
    try:
        with _ended_by_signals():
            report = _rehearsed(plan, args.engine, _Narrator().say)
    except _EndedError as ended:
        return ended.exit_code
    _show(report, args)
    return ExitCode.DONE if report.protected else ExitCode.REFUSED


class _Narrator:
    """Says on standard error what goes on, and when: standard output is the report's."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        passed = time.monotonic() - self._began
        print(f"{passed:6.1f} s  {redact(text)}", file=sys.stderr, flush=True)


def _plan_of(args: argparse.Namespace) -> Plan:
    from logship.rehearsal.plan.flags import plan_of_flags
    from logship.rehearsal.plan.reading import load_plan

    if args.plan is None:
        return plan_of_flags(flags_of(args))
    if flags := given(args):
        raise UsageError(
            Code.USAGE,
            f"a plan and {', '.join(flags)} do not go together",
            "write it into the plan, or use flags alone",
        )
    return load_plan(args.plan)


def _check_files(args: argparse.Namespace) -> None:
    """What would fail after minutes fails now."""
    for flag, file in (("--html", args.html), ("--junit", args.junit)):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise UsageError(
                Code.USAGE, f"{flag}: {file} is no file that can be written", "name a file"
            )
    if args.html is not None:
        from logship.rehearsal.reports.html import check_html_can_be_made

        check_html_can_be_made()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """The first signal ends what is inside, with an _EndedError; those after it disturb neither
    what then cleans up nor how the process ends."""

    def end(number: int, _frame: FrameType | None) -> None:
        _heed_no_signals()
        raise _EndedError(number)

    after = {each: signal.signal(each, end) for each in _ENDING}
    try:
        yield
    except _EndedError:
        # Nothing is started from here any more, and the process is yet to say how it ended.
        after = dict.fromkeys(_ENDING, signal.SIG_IGN)
        raise
    finally:
        for number, handler in after.items():
            signal.signal(number, handler)


def _heed_no_signals() -> None:
    for each in _ENDING:
        # Not SIG_IGN, which programs that are started from here would inherit.
        signal.signal(each, lambda _number, _frame: None)


def _rehearsed(plan: Plan, engine_name: str, say: Callable[[str], None]) -> Report:
    from logship.rehearsal.running import close, open_engine, rehearse

    engine = open_engine(engine_name)
    try:
        return rehearse(plan, engine, say)
    finally:
        _heed_no_signals()
        say("removing all that was made for it")
        close(engine, say)


def _show(report: Report, args: argparse.Namespace) -> None:
    from logship.rehearsal.reports.document import document_of
    from logship.rehearsal.reports.table import table_lines

    if args.json:
        print_json(document_of(report))
    else:
        terminal = Terminal.of(sys.stdout)
        print(paint(table_lines(report, terminal.width), terminal), flush=True)
    if args.junit is not None:
        from logship.rehearsal.reports.junit import junit_xml

        _write(args.junit, junit_xml(report))
    if args.html is not None:
        from logship.rehearsal.reports.html import html_page

        _write(args.html, html_page(report))


def _write(file: Path, text: str) -> None:
    try:
        durable.write_file(file, text.encode(), 0o644)
    except OSError as error:
        raise not_written(file, error) from error

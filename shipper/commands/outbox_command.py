"""Print the primary's settings that fill the outbox, for each PostgreSQL major.

With these in postgresql.conf the primary's archiver puts each segment into the directory that
`archive.outbox` names, and `shipper run` with primary.source = "archive" ships it from there.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from logship.commandline import add_json_argument, print_json
from logship.errors import Code, ExitCode, UsageError
from shipper.commands.outbox_settings import LIBRARY_SINCE, MAJORS, archiving
from shipper.settings import DEFAULT_SETTINGS_FILE, load_shipper_settings

OWNER = "postgres"
MODE = "0700"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--major", metavar="N", type=int, choices=MAJORS, help="of this major alone"
    )
    parser.add_argument(
        "--settings",
        "--config",
        dest="settings",
        metavar="FILE",
        type=Path,
        default=DEFAULT_SETTINGS_FILE,
        help="the shipper's settings file (default: %(default)s)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    outbox = load_shipper_settings(args.settings).archive.outbox
    if outbox is None:
        raise UsageError(
            Code.SETTINGS,
            f"{args.settings} names no outbox",
            'set archive.outbox in it, and primary.source = "archive"',
        )
    majors = MAJORS if args.major is None else (args.major,)
    if args.json:
        print_json(_document(outbox, majors))
    else:
        print(_text(outbox, majors))
    return ExitCode.DONE


def _document(outbox: Path, majors: tuple[int, ...]) -> dict[str, Any]:
    return {
        "outbox": str(outbox),
        "owner": OWNER,
        "mode": MODE,
        "majors": {
            str(major): [{**each._asdict(), "line": each.line} for each in archiving(major, outbox)]
            for major in majors
        },
    }


def _text(outbox: Path, majors: tuple[int, ...]) -> str:
    lines = [
        "# The directory, made once on the primary's host.  It belongs to the account that",
        "# PostgreSQL runs as, and the shipper runs as the same account: basic_archive writes",
        "# files that no other may read.",
        f"#   install -d -o {OWNER} -g {OWNER} -m {MODE} {shlex.quote(str(outbox))}",
    ]
    for major in majors:
        lines += ["", f"# PostgreSQL {major}: postgresql.conf"]
        if major >= LIBRARY_SINCE:
            lines.append("# (basic_archive comes with PostgreSQL's contrib modules)")
        for each in archiving(major, outbox):
            lines += [f"# needs a {each.takes}: {each.why}", each.line]
    return "\n".join(lines)

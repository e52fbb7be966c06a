"""Show by which rules an instance's standby may replay its primary's WAL, and what they find.

Asks the running applier, which compares anew: what the primary was last heard to be with the
PostgreSQL that the standby runs on, and with its host.  A running standby is looked into.
With --against: with another PostgreSQL of the recovery server, before an upgrade there.
With --primary: what the primary would be, before it is changed; `shipper profile --json`,
run where the change was made for a trial, says what that is.  Nothing of it is kept.

Exits with 3 if the check blocks.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from logship.applier_client import MAX_PROFILE_REQUEST_BYTES, ApplierClient, find_socket
from logship.commandline import add_json_argument, print_json
from logship.compat_view import render_compat
from logship.errors import Code, ExitCode, UsageError
from logship.status_command import add_applier_argument

STANDARD_INPUT = "-"

_HINT = "`shipper profile --json` writes one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the instance")
    parser.add_argument(
        "--against",
        metavar="INSTALLATION",
        default="",
        help="compare with this PostgreSQL of the recovery server: its version (17.10, or 17 for "
        "the newest) or its directory",
    )
    parser.add_argument(
        "--primary",
        metavar="FILE",
        help="compare what this file says of the primary, as `shipper profile --json` printed it; "
        "- reads standard input",
    )
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    primary = None if args.primary is None else read_primary(args.primary)
    document = ApplierClient(find_socket(args.applier)).compat(args.name, args.against, primary)
    if args.json:
        print_json(document)
    else:
        print(render_compat(document))
    return ExitCode.REFUSED if document.get("blocked") else ExitCode.DONE


def read_primary(file: str) -> dict[str, Any]:
    """The document in `file`, not yet looked at.  Raises UsageError: there is none."""
    name = "standard input" if file == STANDARD_INPUT else file
    try:
        if file == STANDARD_INPUT:
            content = sys.stdin.buffer.read(MAX_PROFILE_REQUEST_BYTES)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(MAX_PROFILE_REQUEST_BYTES)
    except OSError as error:
        raise UsageError(Code.USAGE, f"{name} can't be read: {error.strerror}", _HINT) from error
    if len(content) == MAX_PROFILE_REQUEST_BYTES:
        raise UsageError(Code.USAGE, f"{name} is too long for a primary's profile", _HINT)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(Code.USAGE, f"{name} holds no JSON", _HINT) from error
    if not isinstance(document, dict):
        raise UsageError(Code.USAGE, f"{name} holds no JSON object", _HINT)
    return document

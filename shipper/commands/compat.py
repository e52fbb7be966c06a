"""Show by which rules an instance's standby may replay its primary's WAL, and what they find.

Asks the running applier, which compares anew: what the primary was last heard to be with the
PostgreSQL that the standby runs on, and with its host.  A running standby is looked into.
With --against: with another PostgreSQL of the recovery server, before an upgrade.

Exits with 3 if the check blocks.
"""

from __future__ import annotations

import argparse

from logship.applier_client import ApplierClient, find_socket
from logship.commandline import add_json_argument, print_json
from logship.compat_view import render_compat
from logship.errors import ExitCode
from logship.status_command import add_applier_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the instance")
    parser.add_argument(
        "--against",
        metavar="INSTALLATION",
        default="",
        help="compare with this PostgreSQL of the recovery server: its version (17.10, or 17 for "
        "the newest) or its directory",
    )
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    document = ApplierClient(find_socket(args.applier)).compat(args.name, args.against)
    if args.json:
        print_json(document)
    else:
        print(render_compat(document))
    return ExitCode.REFUSED if document.get("blocked") else ExitCode.DONE

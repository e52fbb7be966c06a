"""Remove what is kept of a cluster that an instance was before an upgrade.

It goes by itself some time after the standby of its successor streams.  This does it now: of all
that are not needed any more, or of the one that is named, even if nothing has replaced it yet.
"""

from __future__ import annotations

import argparse

from logship.applier_client import ApplierClient, find_socket
from logship.commandline import add_json_argument, print_json
from logship.errors import ExitCode
from logship.status_command import add_applier_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the instance")
    parser.add_argument(
        "incarnation",
        metavar="SYSID-MAJOR",
        nargs="?",
        help="which one (default: all whose successor's standby streams)",
    )
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    answer = ApplierClient(find_socket(args.applier)).forget(args.name, args.incarnation)
    if args.json:
        print_json(answer)
    else:
        print(f"removes {', '.join(answer['forgotten'])} of {args.name}")
    return ExitCode.DONE

"""Let another cluster take an instance's place.

A primary that comes back with a higher major, as after pg_upgrade, is let in by itself.  Any other
cluster under the instance's name is refused, until this names it: as its system identifier and its
major, which the alarm shows.  What the instance was is kept as after an upgrade.
"""

from __future__ import annotations

import argparse

from logship.applier_client import ApplierClient, find_socket
from logship.commandline import add_json_argument, print_json
from logship.errors import ExitCode
from logship.status_command import add_applier_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the instance")
    parser.add_argument("incarnation", metavar="SYSID-MAJOR", help="the cluster to let in")
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    answer = ApplierClient(find_socket(args.applier)).accept(args.name, args.incarnation)
    if args.json:
        print_json(answer)
    else:
        print(
            f"{answer['accepted']} takes the place of {args.name} when it comes; "
            "what is there is kept"
        )
    return ExitCode.DONE

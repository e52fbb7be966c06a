"""Run an instance's standby on another minor of its major.

The running applier checks first whether the standby may run there, stops it, starts it there and
waits until it streams.  If it does not in time it is started on what it ran on before.  The choice
stands until it is changed, and while it fits: a standby is never older than its primary.
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
        "--to",
        dest="version",
        metavar="VERSION",
        required=True,
        help="as 17.10; auto: whichever is nearest to the primary, as without a choice",
    )
    parser.add_argument(
        "--within",
        dest="within_seconds",
        metavar="SECONDS",
        type=float,
        default=120.0,
        help="how long it may take until it streams (default: 120)",
    )
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    client = ApplierClient(find_socket(args.applier))
    answer = client.switch_installation(args.name, args.version, args.within_seconds)
    if args.json:
        print_json(answer)
    else:
        print(
            f"the standby of {args.name} streams on {answer['version']} in {answer['directory']} "
            f"(before: {answer['before']}), after {answer['seconds']:.1f} s"
        )
    return ExitCode.DONE

"""Have an instance's shipper send a base backup, from which its standby starts anew.

Asks the running applier, which asks the shipper; `status NAME` shows the progress.  The
standby that there is goes on until the new seed has arrived and been verified.
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
        "--why", metavar="TEXT", default="an operator asked", help="reason, for the logs"
    )
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    answer = ApplierClient(find_socket(args.applier)).request_seed(args.name, args.why)
    if args.json:
        print_json(answer)
    else:
        print(f"asked the shipper of {args.name} for a seed; `status {args.name}` shows it come")
    return ExitCode.DONE

"""Have an instance seeded with a base backup, from which its standby starts anew.

Asks the running applier, which asks the shipper for one, or takes the newest one of the bucket
or of a directory that can be recovered; `status NAME` shows the progress.  The standby that
there is goes on until the new seed has arrived and been verified.
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
    parser.add_argument(
        "--from",
        dest="source",
        metavar="WHERE",
        default="",
        help="link, bucket, or a directory on the recovery server that holds what a bucket would "
        "(default: the link if its shipper is connected, else the bucket)",
    )
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    answer = ApplierClient(find_socket(args.applier)).request_seed(args.name, args.why, args.source)
    if args.json:
        print_json(answer)
    else:
        source = answer.get("from", "link")
        done = (
            f"asked the shipper of {args.name} for a seed"
            if source == "link"
            else f"seeds {args.name} with {answer.get('seed_id', 'the newest seed')} from {source}"
        )
        print(f"{done}; `status {args.name}` shows it come")
    return ExitCode.DONE

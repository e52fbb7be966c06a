"""Have a new instance come in by itself: print a one-time token for `shipper join`.

The token is as secret as a password until it was used.  Take it to the primary's host and run
there: shipper join TOKEN --conninfo ...  A new token for the same name makes the one before void.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Final

from logship.applier_client import ApplierClient, find_socket
from logship.commandline import add_json_argument, print_json
from logship.errors import ExitCode
from logship.status_command import add_applier_argument

DEFAULT_HOURS: Final = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the instance's name")
    parser.add_argument(
        "--address",
        metavar="tcp://HOST:PORT",
        default="",
        help="how the primary's host reaches this one (default: this host's name and the port of "
        "link.listen)",
    )
    parser.add_argument(
        "--hours",
        metavar="H",
        type=float,
        default=DEFAULT_HOURS,
        help="how long the token is good (default: %(default)g)",
    )
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    client = ApplierClient(find_socket(args.applier))
    answer = client.enroll(args.name, args.address, args.hours)
    if args.json:
        print_json(answer)
        return ExitCode.DONE
    # Alone on standard output, for a pipe.
    print(answer["token"])
    ends = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(answer["expires_at"]))
    print(
        f"good once, until {ends}, for {args.name} at {answer['address']}; on the primary's host:\n"
        f"shipper join TOKEN --conninfo ...",
        file=sys.stderr,
    )
    return ExitCode.DONE

"""Remove WAL and seeds that nothing needs any more, and say why everything else stays.

Asks the running applier, which does the same by itself every hour.
"""

from __future__ import annotations

import argparse

from applier.retention.report import lines
from logship.applier_client import ApplierClient, find_socket
from logship.commandline import add_json_argument, print_json
from logship.errors import ExitCode
from logship.status_command import add_applier_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the instance")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    client = ApplierClient(find_socket(args.applier))
    answer = client.retention(args.name, dry_run=args.dry_run)
    if args.json:
        print_json(answer)
    else:
        print("\n".join(lines(answer)))
    return ExitCode.DONE

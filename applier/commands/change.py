"""Change a registered instance of the running applier, at once.

A standby is started anew where the change needs it; a promoted server is left as it is.  An
instance of the settings file is changed there.
"""

from __future__ import annotations

import argparse

from applier.commands.fleet_settings import add_key_arguments, add_set_argument, said
from logship.applier_client import ApplierClient, find_socket
from logship.commandline import add_json_argument, print_json
from logship.errors import Code, ExitCode, UsageError
from logship.status_command import add_applier_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the instance")
    add_key_arguments(parser)
    add_set_argument(parser)
    parser.add_argument(
        "--unset",
        metavar="KEY",
        action="append",
        default=[],
        help="have a setting at its default again; may be given several times",
    )
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    changes = said(args)
    if not changes and not args.unset:
        raise UsageError(Code.USAGE, "nothing is to be changed", "give --set or --unset")
    changed = ApplierClient(find_socket(args.applier)).change(args.name, changes, args.unset)
    if args.json:
        print_json(changed)
    else:
        print(f"changed {args.name}: {', '.join([*changes, *args.unset])}")
    return ExitCode.DONE

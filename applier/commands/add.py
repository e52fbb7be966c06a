"""Add an instance to the running applier, which remembers it.

Its shipper may connect at once.  Without --port the instance gets one of `fleet.ports` that
nobody uses.  Data that an instance of this name left (`applier remove NAME --keep-data`) is
taken up again.
"""

from __future__ import annotations

import argparse

from applier.commands.fleet_settings import add_key_arguments, add_set_argument, said
from logship.applier_client import ApplierClient, find_socket
from logship.commandline import add_json_argument, print_json
from logship.errors import ExitCode
from logship.status_command import add_applier_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the new instance")
    parser.add_argument("--port", metavar="N", type=int, help="port of its standby")
    add_key_arguments(parser)
    add_set_argument(parser)
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    settings = said(args)
    if args.port is not None:
        settings["port"] = args.port
    added = ApplierClient(find_socket(args.applier)).add(args.name, settings)
    if args.json:
        print_json(added)
    else:
        print(f"added {args.name}; its standby will have port {added['port']}")
    return ExitCode.DONE

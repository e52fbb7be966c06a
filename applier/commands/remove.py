"""Remove a registered instance from the running applier, with everything kept of it here.

Its shipper is refused, its standby is stopped, and its WAL, its standby's data and its kept
seeds are removed.  What lies in a bucket stays.  An instance of the settings file is removed
there.  It asks first; where nobody can be asked it wants --yes.
"""

from __future__ import annotations

import argparse
import sys

from logship.applier_client import ApplierClient, find_socket
from logship.commandline import add_json_argument, print_json
from logship.errors import Code, ExitCode, RefusedError
from logship.status_command import add_applier_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the instance")
    parser.add_argument(
        "--keep-data",
        action="store_true",
        help="only forget the instance; its WAL and data stay, and a promoted server runs on",
    )
    parser.add_argument(
        "--promoted",
        action="store_true",
        help="also if it was promoted: its server is stopped and its data removed",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    client = ApplierClient(find_socket(args.applier))
    if not (args.yes or args.keep_data):
        _confirm(args.name)
    removed = client.remove(args.name, keep_data=args.keep_data, promoted=args.promoted)
    if args.json:
        print_json(removed)
    elif removed["keep_server"]:
        print(f"removed {args.name}; its promoted server runs on, and nobody keeps it up")
    elif removed["keep_data"]:
        print(f"removed {args.name}; its data stays")
    else:
        print(f"removed {args.name} and everything kept of it here")
    return ExitCode.DONE


def _confirm(name: str) -> None:
    """A slip of the hand, or of a script, must not cost the only copy."""
    if not sys.stdin.isatty():
        raise RefusedError(
            Code.REMOVE_REFUSED,
            f"{name} is not removed: nobody can be asked here whether that is meant",
            "give --yes; --keep-data only forgets the instance",
        )
    print(f"This removes {name}, its standby and all WAL kept of it here.", file=sys.stderr)
    print("Remove it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RefusedError(
            Code.REMOVE_REFUSED, "not removed, as you said", "with --yes it does not ask"
        )

"""Show how the instances stand, as the applier on this machine knows it.

Without NAME a line for each instance, with NAME all of one.  What is not known is shown as
"?" (with --json: null).  FLUSHED is what the primary has flushed, DURABLE what is fsynced
here; TRANSFER GAP between them is what would be lost now under async protection, APPLY GAP
what the standby has yet to replay.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from logship.applier_client import ApplierClient, find_socket
from logship.commandline import add_json_argument, print_json
from logship.errors import Code, ExitCode, LogshipError
from logship.status_view import render_detail, render_table

_CLEAR_SCREEN = "\x1b[H\x1b[2J"
_WATCH_SECONDS = 1.0


def add_applier_argument(parser: argparse.ArgumentParser) -> None:
    """`--applier`, the same in every command that asks a running applier."""
    parser.add_argument(
        "--applier",
        metavar="SOCKET",
        help="the applier's API socket (default: $LOGSHIP_APPLIER, else /run/logship/applier.sock)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="show everything of one instance")
    parser.add_argument("--watch", action="store_true", help="show it anew every second")
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    client = ApplierClient(find_socket(args.applier))
    if not args.watch:
        _show(client, args.name, as_json=args.json)
        return ExitCode.DONE
    return _watch(lambda: _show(client, args.name, as_json=args.json), as_json=args.json)


def _show(client: ApplierClient, name: str | None, *, as_json: bool) -> None:
    now = time.time()
    if name is None:
        documents = client.instances()
        if as_json:
            print_json({"instances": documents})
        else:
            print(render_table(documents, now))
    else:
        document = client.instance(name)
        if as_json:
            print_json(document)
        else:
            print(render_detail(document, now))


def _watch(show: Callable[[], None], *, as_json: bool) -> int:
    clear = sys.stdout.isatty() and not as_json
    while True:
        if clear:
            print(_CLEAR_SCREEN, end="")
        try:
            show()
        except LogshipError as error:
            # The applier may be restarting: this is what a watcher wants to see happen.
            if error.code is not Code.APPLIER_UNREACHABLE or not error.retryable:
                raise
            if as_json:
                print_json({"error": error.as_dict()})
            else:
                print(f"error: {error.what}")
        sys.stdout.flush()
        time.sleep(_WATCH_SECONDS)

"""Show how the instances stand, as the applier on this machine knows it.

Without NAME a line for each instance, worst first; with NAME all of one.  What is not known is
shown as "?" (with --json: null).  FLUSHED is what the primary has flushed, DURABLE what is
fsynced here; TRANSFER GAP between them is what would be lost now under async protection, APPLY
GAP what the standby has yet to replay, and how long the oldest of it has been here; ROOM is
what can still be received before the disk counts as full.  A narrow terminal leaves columns out.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, NoReturn

from logship.applier_client import ApplierClient, find_socket
from logship.commandline import add_json_argument, print_json
from logship.errors import Code, ExitCode, LogshipError
from logship.status_table import summary, table_lines
from logship.status_view import render_detail
from logship.status_words import printable
from logship.terminal import Line, Terminal, Tone, draw, paint

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
        _print(client, args)
        return ExitCode.DONE
    return _watch(client, args)


def _print(client: ApplierClient, args: argparse.Namespace) -> None:
    if args.json:
        print_json(_document(client, args.name))
    else:
        terminal = Terminal.of(sys.stdout)
        print(paint(_lines(client, args.name, terminal.width), terminal))


def _document(client: ApplierClient, name: str | None) -> object:
    return {"instances": client.instances()} if name is None else client.instance(name)


def _lines(client: ApplierClient, name: str | None, width: int | None) -> list[Line]:
    now = time.time()
    if name is not None:
        document = printable(client.instance(name))
        return [Line(text) for text in render_detail(document, now).splitlines()]
    return table_lines(_shown(client), now, width)


def _shown(client: ApplierClient) -> list[dict[str, Any]]:
    return [printable(document) for document in client.instances()]


def _watch(client: ApplierClient, args: argparse.Namespace) -> NoReturn:
    while True:
        # Anew each time: a terminal may be resized.
        terminal = Terminal.of(sys.stdout)
        try:
            if terminal.can_be_drawn_over and not args.json:
                print(draw(_watched(client, args.name, terminal.width), terminal), end="")
            else:
                _print(client, args)
        except LogshipError as error:
            # The applier may be restarting: this is what a watcher wants to see happen.
            if error.code is not Code.APPLIER_UNREACHABLE or not error.retryable:
                raise
            _show_error(error, terminal, as_json=args.json)
        sys.stdout.flush()
        time.sleep(_WATCH_SECONDS)


def _watched(client: ApplierClient, name: str | None, width: int | None) -> list[Line]:
    """What is drawn over and over: with the time, so that one sees that it is alive."""
    now = time.time()
    at = time.strftime("%H:%M:%S", time.localtime(now))
    if name is not None:
        return [Line(at, Tone.FAINT), *_lines(client, name, width)]
    documents = _shown(client)
    heading = Line(f"{at}  {summary(documents)}", Tone.FAINT)
    return [heading, Line(""), *table_lines(documents, now, width)]


def _show_error(error: LogshipError, terminal: Terminal, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": error.as_dict()})
    elif terminal.can_be_drawn_over:
        print(draw([Line(f"error: {error.what}", Tone.BAD)], terminal), end="")
    else:
        print(f"error: {error.what}")

"""Protect a real cluster, lose it, promote its standby, and compare.

Starts a PostgreSQL primary in a temporary directory, an applier and a shipper beside it,
seeds a standby, lets concurrent writers commit and remember what was acknowledged, kills the
primary with SIGKILL in mid-write, promotes, and counts what is there.  Leaves nothing behind.
With --instances 3 all of it happens to three clusters at once, of as many majors if there are
so many, on one applier.
"""

# What lives here, which `shipper demo --help` need not say:
#
#     story     the steps, in order
#     site      the temporary directory, the clusters, the applier and the shippers
#     cluster   one primary
#     settings  what the processes are told, for either road
#     s3_server the S3 server between them, with `--transport s3`
#     writers   concurrent transactions that are remembered once acknowledged
#     outcome   the comparison, as a table and as JSON

from __future__ import annotations

import argparse
from pathlib import Path

from logship.commandline import add_json_argument
from logship.errors import Code, ExitCode, UsageError

MIN_SECONDS, MAX_SECONDS = 1.0, 30.0
MAX_INSTANCES = 5
EXIT_TERMINATED = 143
"""128 + SIGTERM, as shells have it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", metavar="S", type=float, default=8.0, help="how long to write (default: 8)"
    )
    parser.add_argument(
        "--protection",
        choices=("sync", "async"),
        default="async",
        help="whether commits wait for the recovery server (default: async)",
    )
    parser.add_argument(
        "--transport",
        choices=("link", "s3"),
        default="link",
        help="the road: a ZeroMQ link, or an S3 server that the demo starts (default: link)",
    )
    parser.add_argument(
        "--instances",
        metavar="N",
        type=int,
        help=f"how many clusters to protect and lose at once, up to {MAX_INSTANCES}, the newest "
        "majors there are (default: 1); --json prints a list of them then",
    )
    parser.add_argument(
        "--postgres", metavar="MAJOR", type=int, help="14 to 18 (default: the newest there is)"
    )
    parser.add_argument(
        "--installations",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="look for PostgreSQL here too (may be repeated)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    if not MIN_SECONDS <= args.seconds <= MAX_SECONDS:
        raise UsageError(
            Code.USAGE,
            f"--seconds {args.seconds:g} is out of range",
            f"write for {MIN_SECONDS:g} to {MAX_SECONDS:g} seconds",
        )
    count = 1 if args.instances is None else args.instances
    if not 1 <= count <= MAX_INSTANCES:
        raise UsageError(
            Code.USAGE,
            f"--instances {count} is out of range",
            f"protect 1 to {MAX_INSTANCES} clusters",
        )
    from logship.wal import PAGE_MAGIC

    if args.postgres is not None and args.postgres not in PAGE_MAGIC:
        raise UsageError(
            Code.USAGE,
            f"there is no demo with PostgreSQL {args.postgres}",
            f"give one of {', '.join(map(str, PAGE_MAGIC))}",
        )
    import asyncio

    from shipper.commands.demo.outcome import show
    from shipper.commands.demo.story import tell

    try:
        outcomes = asyncio.run(
            tell(
                major=args.postgres,
                protection=args.protection,
                transport=args.transport,
                seconds=args.seconds,
                configured=args.installations,
                quiet=args.json,
                count=count,
            )
        )
    except asyncio.CancelledError:
        return EXIT_TERMINATED
    show(outcomes, as_json=args.json, as_list=args.instances is not None)
    kept = all(each.kept_its_promise for each in outcomes.values())
    return ExitCode.DONE if kept else ExitCode.FAILED

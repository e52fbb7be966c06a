"""Ask the running shipper for a new seed in the bucket.

The order is a file in the state directory.  A shipper that does not run finds it when it starts.
For a seed over the link ask on the recovery server: `applier seed NAME`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Final

from logship import durable
from logship.commandline import add_config_argument, add_json_argument, print_json
from logship.errors import Code, ExitCode, LogshipError, UsageError
from shipper.settings import DEFAULT_SETTINGS_FILE, load_shipper_settings

DEFAULT_WAIT_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_argument(parser, DEFAULT_SETTINGS_FILE)
    parser.add_argument(
        "--wait",
        metavar="S",
        type=float,
        default=DEFAULT_WAIT_SECONDS,
        help="seconds to wait for the seed to begin (default: %(default)g)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    from shipper.destinations.bucket.wishes import ORDER_NAME

    settings = load_shipper_settings(args.config)
    if settings.bucket is None or settings.bucket.role == "spill":
        why = (
            "has no [bucket]"
            if settings.bucket is None
            else "has a bucket of the role spill, which takes WAL but no seeds"
        )
        raise UsageError(
            Code.USAGE,
            f"{args.config} {why}",
            f"for a seed over the link, on the recovery server: applier seed {settings.instance}",
        )
    order = settings.instance_directory / ORDER_NAME
    try:
        durable.make_directory(settings.instance_directory)
        durable.write_file(order, b"")
    except OSError as error:
        raise LogshipError(
            Code.SETTINGS,
            f"{order} can't be written: {error.strerror or error}",
            "run this as the user that the shipper runs as",
        ) from error
    begun = _wait_until_gone(order, args.wait)
    if args.json:
        print_json({"instance": settings.instance, "ordered": True, "begun": begun})
    elif begun:
        print(f"a seed of {settings.instance} begins; the shipper's log tells when it is in place")
    else:
        print(
            f"a seed of {settings.instance} is ordered; it begins once the shipper runs, reaches "
            "primary and bucket, and no other seed is on its way"
        )
    return ExitCode.DONE


def _wait_until_gone(order: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while order.exists():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True

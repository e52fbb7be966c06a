"""Estimate the requests and bytes that a bucket takes in a month.

The rate of WAL is what the primary counted since its statistics were reset, or what it writes
while it is watched (--measure), or what you say (--wal-mb-per-hour, asks nobody).  There are no
prices built in: give those of whom you buy from.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from logship.commandline import add_config_argument, add_json_argument, print_json
from logship.errors import Code, ExitCode, UsageError
from shipper.commands.cost_estimate import (
    Plan,
    Prices,
    WalRate,
    estimate,
    price,
    shown,
    windows_of,
)
from shipper.settings import DEFAULT_SETTINGS_FILE, ShipperSettings, load_shipper_settings
from shipper.settings_bucket import BucketSettings

_SEGMENT_BYTES: Final = 16 * 1024 * 1024
_DEFAULT_COMMITS_PER_SECOND: Final = 1.0
_DEFAULT_KEPT_SEEDS: Final = 2.0
_DEFAULT_COMPRESSION: Final = 0.35
"""An example: WAL of a busy OLTP server.  Measure yours."""
_HOURS_PER_MONTH: Final = 730.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_argument(parser, DEFAULT_SETTINGS_FILE)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--wal-mb-per-hour", metavar="N", type=_number, help="ask no primary")
    source.add_argument(
        "--measure", metavar="SECONDS", type=_number, help="watch the primary for so long"
    )
    parser.add_argument(
        "--commits-per-second",
        metavar="N",
        type=_number,
        help="that write, for --wal-mb-per-hour "
        f"(default: {_DEFAULT_COMMITS_PER_SECOND:g}, an example)",
    )
    for name, default, text in (
        ("--compression", _DEFAULT_COMPRESSION, "stored bytes for a byte; an example"),
        ("--appliers", 1.0, "that read the bucket"),
        ("--poll-seconds", 1.0, "bucket.poll_seconds of the appliers"),
        ("--kept-hours", 0.0, "WAL stays so long in the bucket; 0: for ever"),
    ):
        parser.add_argument(
            name, metavar="N", type=_number, default=default, help=f"{text} (default: %(default)g)"
        )
    parser.add_argument(
        "--kept-seeds",
        metavar="N",
        type=_number,
        help=f"so many stay, where --kept-hours is not 0 (default: {_DEFAULT_KEPT_SEEDS:g})",
    )
    parser.add_argument(
        "--seed-gb", metavar="N", type=_number, help="one seed, compressed (else: as measured)"
    )
    prices = parser.add_argument_group("prices, for a bill")
    prices.add_argument("--put-per-1000", metavar="P", type=_number, help="PUT and LIST requests")
    prices.add_argument("--get-per-1000", metavar="P", type=_number, help="GET requests")
    prices.add_argument("--stored-gb-month", metavar="P", type=_number, help="a GB for a month")
    prices.add_argument("--downloaded-gb", metavar="P", type=_number, help="a GB sent out")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    _check(args)
    settings = load_shipper_settings(args.config)
    bucket = settings.bucket or BucketSettings(url="file:///nowhere")
    rate, seed_bytes, seconds = _rate(args, settings, bucket)
    every_hours = settings.seed.every_hours
    plan = Plan(
        max_object_bytes=bucket.max_object_mb << 20,
        appliers=int(args.appliers),
        poll_seconds=args.poll_seconds,
        compression=args.compression,
        seeds_per_month=_HOURS_PER_MONTH / every_hours if every_hours else 0.0,
        seed_bytes=args.seed_gb * 1e9 if args.seed_gb is not None else seed_bytes,
        kept_hours=args.kept_hours,
        alive_every_seconds=bucket.alive_every_seconds,
        kept_seeds=int(_given(args.kept_seeds, _DEFAULT_KEPT_SEEDS)) if args.kept_hours else 0,
    )
    assumed = [*_assumed(settings), *_left_out(args, plan)]
    estimated = estimate(rate, plan)
    cost = price(
        estimated,
        Prices(args.put_per_1000, args.get_per_1000, args.stored_gb_month, args.downloaded_gb),
    )
    if args.json:
        document: dict[str, Any] = {
            "instance": settings.instance,
            "rate": {**rate._asdict(), "measured_seconds": seconds},
            "plan": plan._asdict(),
            "month": estimated._asdict(),
            "cost": cost,
            "assumes": assumed,
        }
        print_json(document)
    else:
        print("\n".join([*assumed, *shown(rate, plan, estimated, cost)]))
    return ExitCode.DONE


def _check(args: argparse.Namespace) -> None:
    """Raises UsageError for arguments that make no estimate, or have no effect on it."""
    if args.poll_seconds <= 0:
        raise UsageError(Code.USAGE, "--poll-seconds is 0", "appliers ask once in so many seconds")
    if args.kept_seeds is not None and not args.kept_hours:
        raise UsageError(
            Code.USAGE,
            "--kept-seeds is of use with --kept-hours alone",
            "without it nothing is ever removed, and all seeds stay",
        )
    if args.commits_per_second is not None and args.wal_mb_per_hour is None:
        raise UsageError(
            Code.USAGE,
            "--commits-per-second is of use with --wal-mb-per-hour alone",
            "without it the primary's own commits count",
        )


def _left_out(args: argparse.Namespace, plan: Plan) -> list[str]:
    """Seeds whose size nobody knows."""
    has_seeds = plan.seeds_per_month > 0 or plan.kept_seeds > 0
    if args.seed_gb is None and not plan.seed_bytes and has_seeds:
        return ["the size of a seed is not known, so seeds are not in it: --seed-gb tells it"]
    return []


def _assumed(settings: ShipperSettings) -> list[str]:
    """What the settings at hand are not."""
    if settings.bucket is None:
        return ["there is no [bucket]: this is for one with its defaults, which gets all WAL"]
    if settings.bucket.role == "spill":
        return [
            'bucket.role is "spill": this is for one that gets all WAL; it takes so much only '
            "while it stands in for the link"
        ]
    return []


def _rate(
    args: argparse.Namespace, settings: ShipperSettings, bucket: BucketSettings
) -> tuple[WalRate, float, float | None]:
    """The rate, the bytes of a seed, and the seconds that it was measured for."""
    delay = bucket.max_delay_seconds
    if args.wal_mb_per_hour is not None:
        written = args.wal_mb_per_hour * 1e6 / 3600
        commits = _given(args.commits_per_second, _DEFAULT_COMMITS_PER_SECOND)
        windows = windows_of(commits if written else 0.0, delay)
        return WalRate(written, windows, _SEGMENT_BYTES), 0.0, None
    from shipper.commands.wal_rate import since_reset, watched

    if args.measure is not None:
        measured = watched(settings, args.measure, delay)
    else:
        measured = since_reset(settings, delay)
    return measured.rate, measured.database_bytes * args.compression, measured.seconds


def _given(number: float | None, default: float) -> float:
    return default if number is None else number


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= number < 1e15:
        raise argparse.ArgumentTypeError(f"{text} is no sensible number")
    return number

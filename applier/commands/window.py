"""Show to which moments an instance can be restored.

From the first moment at which a kept seed is consistent to the end of the WAL that is kept
behind it, with the holes between.  Reads the ends of the WAL, changes nothing, and goes on
beside a running applier.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from applier.fleet.settings import load_effective_settings
from applier.settings import DEFAULT_SETTINGS_FILE
from logship.commandline import add_json_argument, print_json
from logship.errors import ExitCode

if TYPE_CHECKING:
    from applier.restore.opening import Places


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the instance")
    add_source_arguments(parser)
    add_timeline_argument(parser)
    add_json_argument(parser)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to look, the same for `window`, `restore` and `drill`."""
    parser.add_argument(
        "--config",
        metavar="F",
        type=Path,
        default=DEFAULT_SETTINGS_FILE,
        help="the applier's settings file (default: %(default)s)",
    )
    bucket = parser.add_mutually_exclusive_group()
    bucket.add_argument(
        "--from-bucket",
        metavar="URL",
        default="",
        help="another bucket than the settings': s3://BUCKET/PREFIX or file:///DIRECTORY",
    )
    bucket.add_argument(
        "--no-bucket", action="store_true", help="only what is on this machine's disks"
    )
    parser.add_argument(
        "--identity",
        metavar="F",
        type=Path,
        action="append",
        default=[],
        help="one more file of age identities; may be given several times",
    )
    parser.add_argument(
        "--seeds",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="one more directory of kept seeds; may be given several times",
    )


def add_timeline_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeline",
        metavar="N",
        type=int,
        help="the timeline whose line of descent to follow (default: the newest)",
    )


def run(args: argparse.Namespace) -> int:
    settings = load_effective_settings(args.config)
    from applier.restore.opening import open_from_settings, with_a_way_out
    from applier.restore.window import window_lines
    from logship.logs import set_up_logs
    from logship.settings import LogSettings

    set_up_logs(LogSettings(level="error", format=settings.log.format))
    with tempfile.TemporaryDirectory(prefix="logship-window-") as spool:
        sources = open_from_settings(settings, args.name, places_of(args), Path(spool) / "wal")
        try:
            with with_a_way_out():
                window = sources.window()
        finally:
            sources.close()
    if args.json:
        print_json({"name": args.name, **window.as_dict()})
    else:
        print(f"{args.name}, timeline {window.timeline}, times in UTC:")
        for line in window_lines(window):
            print(f"  {line}")
    return ExitCode.DONE


def places_of(args: argparse.Namespace) -> Places:
    """What the arguments say of where things are kept."""
    from applier.restore.opening import Places

    return Places(
        bucket_url=args.from_bucket,
        use_bucket=not args.no_bucket,
        identity_files=args.identity,
        seed_directories=args.seeds,
        timeline=args.timeline,
    )

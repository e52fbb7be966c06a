"""Restore an instance to a moment, into a new directory, as a server of its own.

Say one of --to-time, --to-lsn, --to-name, --latest.  It starts from the newest kept seed that is
consistent by then, replays WAL from the store and the bucket, stops, and opens.  A moment that
can't be reached is refused before anything is written, with the nearest that can; `applier
window NAME` shows them all.

A time without a zone is UTC.  Everything that was committed up to T is in it, and the first
transaction after T is not, nor what follows it in the WAL: as PostgreSQL's
recovery_target_time has it.  --to-lsn L: every record that begins before L.

The instance's own standby, store and slot are not touched, nor does the restored server connect
to anything.  It is yours when this ends: it runs on, and the last lines say how to stop it.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from applier.commands.window import add_source_arguments, add_timeline_argument, places_of
from applier.fleet.settings import load_effective_settings
from applier.settings import ApplierSettings
from logship.commandline import add_json_argument, print_json
from logship.errors import ExitCode
from logship.progress import Progress

_DEFAULT_PORT = 5432


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the instance")
    parser.add_argument("--to-time", metavar="T", help="2026-03-01T12:00:00+01:00; no zone: UTC")
    parser.add_argument("--to-lsn", metavar="L", help="a WAL position, 16/B374D848")
    parser.add_argument("--to-name", metavar="N", help="of pg_create_restore_point")
    parser.add_argument("--latest", action="store_true", help="the end of what is kept")
    parser.add_argument(
        "--into", metavar="DIR", type=Path, required=True, help="an empty or new directory"
    )
    parser.add_argument(
        "--port",
        metavar="P",
        type=int,
        default=_DEFAULT_PORT,
        help="port of the restored server (default: %(default)s)",
    )
    parser.add_argument(
        "--open",
        choices=("promote", "read-only"),
        default="promote",
        help="promote: for writing, on a new timeline; read-only: a standby that stays there",
    )
    parser.add_argument(
        "--listen",
        metavar="A",
        default="localhost",
        help="its listen_addresses (default: %(default)s); empty: its unix socket only",
    )
    add_source_arguments(parser)
    add_timeline_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    from applier.restore.targets import make_target

    target = make_target(
        to_time=args.to_time, to_lsn=args.to_lsn, to_name=args.to_name, latest=args.latest
    )
    settings = load_effective_settings(args.config)
    from logship.logs import set_up_logs
    from logship.settings import LogSettings

    # The steps are told here; of the log only what a person must see.
    set_up_logs(LogSettings(level="error", format=settings.log.format))
    result = _restore(args, settings, target)
    if args.json:
        print_json(result)
    else:
        print()
        for name, value in readable(result):
            print(f"  {name:<12}  {value}")
    return ExitCode.DONE


def _restore(args: argparse.Namespace, settings: ApplierSettings, target: Any) -> dict[str, Any]:
    from applier.fleet.places import InstancePlaces, spool_beside
    from applier.restore.from_settings import machine_of, place_of
    from applier.restore.opening import hold_and_open, with_a_way_out
    from applier.restore.restoring import check_place, restore
    from applier.restore.window import window_lines

    progress = Progress(as_json=args.json)
    place = place_of(
        settings,
        args.name,
        args.into,
        args.port,
        open_mode=args.open,
        listen_addresses=args.listen,
    )
    check_place(place)
    with machine_of(settings, args.name) as machine:
        spool = spool_beside(place.into)
        sources = hold_and_open(settings, args.name, places_of(args), spool)
        try:
            home = InstancePlaces(settings.directory, args.name).home
            if sources.lease is None and home.is_dir():
                progress.line(
                    "the applier is not told of this: its retention may remove what is read"
                )
            with with_a_way_out():
                window = sources.window()
            progress.step("window", {})
            for line in window_lines(window):
                progress.line(line)
            return asyncio.run(restore(sources, window, target, place, machine, progress.step))
        finally:
            sources.close()


def readable(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What `restore` returned, for a person: rows of (label, value)."""
    yield "restored", f"{result['name']} to {result['target']}: {result['stopped_at']}"
    yield "position", f"timeline {result['timeline']}, LSN {result['lsn']}"
    yield "last commit", result["last_commit"] or "none in the WAL that is kept"
    if result["opened_timeline"] is None:
        yield "open", "read-only, replay stands still"
    else:
        yield "open", f"for writing, on timeline {result['opened_timeline']}"
    yield "data", result["data_directory"]
    where = shlex.quote(result["socket_directory"])
    yield "connect", f"psql -h {where} -p {result['port']} -U {result['superuser']}"
    yield "running", f"PostgreSQL {result['version']} as {result['run_as']}, until you stop it:"
    yield "stop", result["stop_command"]
    yield "start", result["start_command"]
    for complaint in result["complaints"]:
        yield "look at", complaint

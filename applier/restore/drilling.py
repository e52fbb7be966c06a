"""A drill: recover an instance beside everything that runs, see that it opens, take it away.

What it proves is what a restore to the latest moment needs: a kept seed, all WAL since, an
installation that fits, room for it, and a server that opens on what comes out and lets its
databases be read.  The standby, the store and the road are not touched.

One drill of an instance at a time.  What a killed one left in the drills' own directory, its
server included, the next one removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from applier.fleet.places import InstancePlaces, spool_beside
from applier.operations.last_drill import Drill, drill_path, failure_of, save_drill
from applier.operations.record import load_record
from applier.restore.drill_place import (
    STOP_SECONDS,
    emptied,
    is_short_of_room,
    only_one_of,
    take_away,
)
from applier.restore.from_settings import machine_of, place_of
from applier.restore.opening import Places, hold_and_open, with_a_way_out
from applier.restore.reading import Reading
from applier.restore.records import Records
from applier.restore.restoring import Place, Report, check_place, restore
from applier.restore.sources import Sources
from applier.restore.targets import LATEST
from applier.restore.window import Window
from applier.settings import ApplierSettings
from logship.documents import not_written
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.lsn import Lsn
from logship.postgres.process import stop_server
from logship.wal import WAL_PAGE_BYTES

# It names the socket only, in a directory of its own: the server listens on no address.
_PORT: Final = 5432


class Wanted(NamedTuple):
    """into: where it goes instead of the drills' own directory; empty or not there yet.
    read_tables: every row of every table is read, not only the catalogs.  keep: the server
    runs on when the drill has passed, and is its caller's; only with `into`."""

    into: Path | None = None
    read_tables: bool = False
    keep: bool = False


class Drilled(NamedTuple):
    """A drill that passed.  restored: as `restore` returned it."""

    drill: Drill
    databases: int
    tables: int
    restored: dict[str, Any]


def drill(
    settings: ApplierSettings, name: str, places: Places, wanted: Wanted, report: Report
) -> Drilled:
    """Make one, and write down in the instance's directory what came of it.

    Raises what ended it: LogshipError as `restore` and `Sources.window`, or DRILL_FAILED.  That
    is written down as well, and what was recovered so far stays for whoever looks into it, unless
    room is short.  UsageError and, before anything was begun, RefusedError (DRILL_FAILED,
    RESTORE_FAILED: there is no place to do it) and what `emptied` raises: what was written down
    before stands.  Blocks until it is over.
    """
    if wanted.keep and wanted.into is None:
        raise UsageError(
            Code.USAGE,
            "what is kept needs a directory of its own",
            "--keep --into DIR: the drills' own directory is emptied by the next drill",
        )
    home = InstancePlaces(settings.directory, name).home
    with only_one_of(name, home):
        record = load_record(home, name)
        into = emptied(settings, record, home) if wanted.into is None else wanted.into.resolve()
        place = place_of(settings, name, into, _PORT, listen_addresses="")
        check_place(place)
        clear = partial(take_away, place.into, itself=not place.into.exists())
        started_at = time.monotonic()
        begun = Drill(at=time.time(), incarnation=str(record.incarnation or ""))
        try:
            sources = hold_and_open(settings, name, places, spool_beside(place.into))
            try:
                cluster = str(sources.profile.incarnation)
                begun = msgspec.structs.replace(begun, incarnation=cluster)
                drilled = _made(settings, sources, wanted, place, begun, started_at, report)
            finally:
                sources.close()
        except Exception as error:
            if isinstance(error, UsageError):
                clear()
                raise
            if is_short_of_room(place, error):
                with contextlib.suppress(LogshipError):
                    clear()
            _write_down(home, begun, error)
            if isinstance(error, RefusedError):
                # That exit code says that nothing came of the drill.
                raise LogshipError(error.code, error.what, error.hint) from error
            raise
        except BaseException:
            clear()
            raise
        try:
            _save(home, drilled.drill)
        finally:
            if not wanted.keep:
                clear()
        return drilled


def _made(
    settings: ApplierSettings,
    sources: Sources,
    wanted: Wanted,
    place: Place,
    begun: Drill,
    started_at: float,
    report: Report,
) -> Drilled:
    with with_a_way_out():
        window = sources.window()
    check_end(sources.records, window)
    with machine_of(settings, sources.name) as machine:
        restored = asyncio.run(restore(sources, window, LATEST, place, machine, report))
    seconds = time.monotonic() - started_at
    passed = False
    try:
        superuser = restored["superuser"]
        reading = Reading(place.layout, place.port, superuser, report, tables=wanted.read_tables)
        asyncio.run(reading.read_everything())
        passed = True
    finally:
        if not (passed and wanted.keep):
            report("stop", {})
            stop_server(place.layout.data, "immediate", STOP_SECONDS)
    done = msgspec.structs.replace(
        begun,
        seconds=round(seconds, 3),
        timeline=restored["timeline"],
        lsn=restored["lsn"],
        last_commit_time=restored["last_commit_time"],
    )
    return Drilled(done, reading.databases, reading.tables, restored)


def check_end(records: Records, window: Window) -> None:
    """What can be recovered goes up to the end of what is kept.

    Raises LogshipError: DRILL_FAILED (a hole), STORE_DAMAGED, OBJECT_DAMAGED.  Blocks.
    """
    last, hole = window.stretches[-1], window.last_hole
    if hole is not None:
        raise LogshipError(
            Code.DRILL_FAILED,
            f"only what was before {last.latest_lsn} can be recovered: WAL is missing from "
            f"{Lsn(hole.start)} to {Lsn(hole.end)}, and no seed was kept since",
            "have the hole filled, or another seed made",
        )
    page = last.latest_lsn - last.latest_lsn % WAL_PAGE_BYTES
    if page < last.wal.end:
        # The end of the last whole record is the end only if no damage made it so.
        deque(records.marks(page, last.wal.end, to_the_end=True), maxlen=0)


# --- what is written down ----------------------------------------------------------------------


def _write_down(home: Path, begun: Drill, error: Exception) -> None:
    failure = failure_of(error)
    try:
        _save(home, msgspec.structs.replace(begun, failure=failure))
    except LogshipError as unsaved:
        what = f"{failure.what}; and that is not in the status: {unsaved.what}"
        raise LogshipError(Code.DRILL_FAILED, what, failure.hint) from error


def _save(home: Path, drill: Drill) -> None:
    try:
        save_drill(home, drill)
    except OSError as error:
        raise not_written(drill_path(home), error) from error

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
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from applier.fleet.places import InstancePlaces, check_mounted, spool_beside
from applier.operations.last_drill import Drill, drill_path, failure_of, save_drill
from applier.operations.record import InstanceRecord, load_record
from applier.restore.from_settings import machine_of, place_of
from applier.restore.opening import Places, hold_and_open, with_a_way_out
from applier.restore.reading import Reading
from applier.restore.restoring import Place, Report, check_place, restore
from applier.restore.sources import Sources
from applier.restore.targets import LATEST
from applier.settings import ApplierSettings
from applier.standby.layout import StandbyLayout
from logship import durable
from logship.documents import not_written
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.identity import check_instance_name
from logship.postgres.postmaster import remove_shared_memory
from logship.postgres.process import stop_server

_STOP_SECONDS: Final = 60.0


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
    is written down as well, and what was recovered so far stays for whoever looks into it.
    UsageError and, before anything was begun, RefusedError (DRILL_FAILED, RESTORE_FAILED: there
    is no place to do it): what was written down before stands.  Blocks until it is over.
    """
    if wanted.keep and wanted.into is None:
        raise UsageError(
            Code.USAGE,
            "what is kept needs a directory of its own",
            "--keep --into DIR: the drills' own directory is emptied by the next drill",
        )
    home = InstancePlaces(settings.directory, name).home
    with _only_one_of(name, home):
        record = load_record(home, name)
        into = wanted.into or _emptied(settings, record, home)
        place = place_of(settings, name, into, _unused_port(), listen_addresses="")
        check_place(place)
        begun = Drill(at=time.time(), incarnation=str(record.incarnation or ""))
        try:
            sources = hold_and_open(settings, name, places, spool_beside(place.into))
            try:
                drilled = _made(settings, sources, wanted, place, begun, report)
            finally:
                sources.close()
        except UsageError:
            raise
        except LogshipError as error:
            _save(home, msgspec.structs.replace(begun, failure=failure_of(error)))
            raise
        except BaseException:
            _take_away(place.into)
            raise
        _save(home, drilled.drill)
        if not wanted.keep:
            _take_away(place.into)
        return drilled


def _made(
    settings: ApplierSettings,
    sources: Sources,
    wanted: Wanted,
    place: Place,
    begun: Drill,
    report: Report,
) -> Drilled:
    started_at = time.monotonic()
    with with_a_way_out():
        window = sources.window()
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
            stop_server(place.layout.data, "immediate", _STOP_SECONDS)
    done = msgspec.structs.replace(
        begun,
        seconds=round(seconds, 3),
        timeline=restored["timeline"],
        lsn=restored["lsn"],
        last_commit_time=restored["last_commit_time"],
    )
    return Drilled(done, reading.databases, reading.tables, restored)


# --- the place ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _only_one_of(name: str, home: Path) -> Iterator[None]:
    check_instance_name(name)
    try:
        is_there = home.is_dir()
    except PermissionError:
        is_there = True
    if not is_there:
        raise UsageError(
            Code.UNKNOWN_INSTANCE,
            f"nothing of {name} is here",
            "`applier list` names the instances; `applier restore` recovers what a bucket has",
        )
    if not os.access(home, os.W_OK | os.X_OK):
        raise RefusedError(
            Code.DRILL_FAILED,
            f"what a drill of {name} shows can't be written to {home} by this user",
            "run it as the user that the applier runs as",
        )
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RefusedError(
                Code.DRILL_FAILED, f"a drill of {name} is being made already", "wait for it"
            ) from error
        yield
    finally:
        os.close(fd)


def _emptied(settings: ApplierSettings, record: InstanceRecord, home: Path) -> Path:
    """The drills' own directory for the instance, with nothing there.

    Raises LogshipError (STORE_FAILED: its volume is not mounted; and as `_take_away`).
    """
    if record.incarnation is not None:
        places = InstancePlaces(settings.directory, record.name)
        check_mounted(places.of(record.incarnation, record.volumes), record.volumes)
    own = InstancePlaces(settings.directory, record.name).drill_on(record.volumes.standby)
    _take_away(own)
    durable.make_directory(own.parent, 0o711)
    if os.geteuid() == 0:
        # The applier's user may be the next to drill.
        owner = home.stat()
        os.chown(own.parent, owner.st_uid, owner.st_gid)
    return own


def _take_away(into: Path) -> None:
    """A drill's directory, with the server in it if one runs.

    Raises LogshipError (STANDBY_FAILED as `stop_server`, DRILL_FAILED).
    """
    data = StandbyLayout(into, into).data
    stop_server(data, "immediate", _STOP_SECONDS)
    with contextlib.suppress(OSError):
        remove_shared_memory(data)
    try:
        for directory in (spool_beside(into), into):
            durable.remove_tree(directory)
    except OSError as error:
        raise LogshipError(
            Code.DRILL_FAILED,
            f"{error.filename or into}, of a drill, can't be removed: {error.strerror or error}",
            f"remove {into} as a user who may",
        ) from error


def _unused_port() -> int:
    """It names the socket only: the server listens on no address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _save(home: Path, drill: Drill) -> None:
    try:
        save_drill(home, drill)
    except OSError as error:
        raise not_written(drill_path(home), error) from error

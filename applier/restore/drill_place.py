"""Where a drill is made: by one at a time, emptied before it and taken away after it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from applier.fleet.places import InstancePlaces, check_mounted, spool_beside
from applier.operations.record import InstanceRecord
from applier.restore.restoring import Place
from applier.settings import ApplierSettings
from applier.standby.layout import StandbyLayout
from logship import durable
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.identity import check_instance_name
from logship.postgres.postmaster import remove_shared_memory
from logship.postgres.process import stop_server

STOP_SECONDS: Final = 60.0


@contextlib.contextmanager
def only_one_of(name: str, home: Path) -> Iterator[None]:
    """Raises UsageError (UNKNOWN_INSTANCE), RefusedError (DRILL_FAILED)."""
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


def emptied(settings: ApplierSettings, record: InstanceRecord, home: Path) -> Path:
    """The drills' own directory for the instance, with nothing there.

    Raises LogshipError (STORE_FAILED: its volume is not mounted; and as `take_away`),
    RefusedError (DRILL_FAILED).
    """
    if record.incarnation is not None:
        places = InstancePlaces(settings.directory, record.name)
        check_mounted(places.of(record.incarnation, record.volumes), record.volumes)
    own = InstancePlaces(settings.directory, record.name).drill_on(record.volumes.standby)
    take_away(own)
    try:
        if not own.parent.is_dir():
            durable.make_directory(own.parent, 0o711)
            if os.geteuid() == 0:
                # The applier's user may be the next to drill.
                owner = home.stat()
                os.chown(own.parent, owner.st_uid, owner.st_gid, follow_symlinks=False)
    except OSError as error:
        raise RefusedError(
            Code.DRILL_FAILED,
            f"{own.parent} can't be made: {error.strerror or error}",
            "make it for this user, or name another directory: --into DIR",
        ) from error
    return own


def take_away(into: Path, *, itself: bool = True) -> None:
    """A drill's directory, with the server in it if one runs; without `itself` what is in it.

    Raises LogshipError (STANDBY_FAILED as `stop_server`, DRILL_FAILED).
    """
    data = StandbyLayout(into, into).data
    try:
        stop_server(data, "immediate", STOP_SECONDS)
        with contextlib.suppress(OSError):
            remove_shared_memory(data)
        for directory in (spool_beside(into), *([into] if itself else into.iterdir())):
            durable.remove_tree(directory)
    except OSError as error:
        raise LogshipError(
            Code.DRILL_FAILED,
            f"{error.filename or into}, of a drill, can't be removed: {error.strerror or error}",
            f"remove {into} as a user who may",
        ) from error


def is_short_of_room(place: Place, error: Exception) -> bool:
    """Whether what was recovered takes the room that the store and the standby need."""
    if isinstance(error, LogshipError) and error.code is Code.DISK_FULL:
        return True
    try:
        return shutil.disk_usage(place.into).free < place.keep_free_bytes
    except OSError:
        return False

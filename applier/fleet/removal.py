"""What goes when an instance is removed.

Every step may be made again, so that after a crash it is simply gone through once more.  The
directory with the instance's record goes last: it says which volumes there are to look at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import structlog

from applier.fleet.places import InstancePlaces, Volumes, spool_beside
from applier.fleet.registry import Removal
from applier.settings import ApplierSettings
from logship import durable
from logship.errors import Code, LogshipError
from logship.postgres.postmaster import remove_shared_memory
from logship.postgres.process import stop_server

STOP_SECONDS: Final = 60.0

log = structlog.get_logger(__name__)


def directories_of(
    settings: ApplierSettings, places: InstancePlaces, volumes: Sequence[Volumes]
) -> list[Path]:
    """Every directory that may hold files of the instance, the one of its record last.

    volumes: as its record says, also of earlier incarnations.  The settings' own are looked at
    too: something that no record knows of may be there.
    """
    listed = _volumes(settings, volumes)
    elsewhere = dict.fromkeys(places.on(volume) for volume in listed if volume)
    elsewhere.pop(places.home, None)
    return [*elsewhere, places.home]


def drills_of(
    settings: ApplierSettings, places: InstancePlaces, volumes: Sequence[Volumes]
) -> list[Path]:
    """Every directory that may hold what drills of the instance left; as `directories_of`."""
    listed = _volumes(settings, volumes)
    drills = dict.fromkeys(places.drill_on(volume) for volume in ("", *listed))
    return [directory for drill in drills for directory in (drill, spool_beside(drill))]


def _volumes(settings: ApplierSettings, volumes: Sequence[Volumes]) -> list[str | Path]:
    return [
        *settings.store.volumes,
        *settings.standby.volumes,
        *(volume for each in volumes for volume in (each.store, each.standby)),
    ]


def remove_instance(
    directories: list[Path], removal: Removal, extra: list[Path], stop_seconds: float = STOP_SECONDS
) -> None:
    """Stop its servers, then remove what `removal` says.  extra: directories besides, which go
    with the data, as does a server in one.  Blocks, for long where there is much.

    Raises LogshipError (STANDBY_FAILED, STORE_FAILED; both retryable).
    """
    if not removal.keep_server:
        for data in _data_directories(directories):
            _stop(data, stop_seconds)
    if removal.keep_data:
        return
    for directory in [*extra, *directories]:
        try:
            for data in _data_directories([directory]):
                _stop(data, stop_seconds)
                with contextlib.suppress(OSError):
                    remove_shared_memory(data)
            durable.remove_tree(directory)
        except OSError as error:
            raise LogshipError(
                Code.STORE_FAILED,
                f"{error.filename or directory} can't be removed: {error.strerror or error}",
                "look at the disk, and whether the applier's user may do that; then remove the "
                "instance again",
                retryable=True,
            ) from error


def _data_directories(directories: list[Path]) -> Iterator[Path]:
    for directory in directories:
        yield from sorted(directory.glob("*-*/data"))
        yield directory / "data"  # of a drill


def _stop(data: Path, seconds: float) -> None:
    try:
        stopped = stop_server(data, "fast", seconds)
    except LogshipError as error:
        log.warning("the server is slow to stop", **error.as_dict())
        stopped = stop_server(data, "immediate", seconds)
    if stopped:
        log.info("stopped the server of an instance that is removed", data=str(data))

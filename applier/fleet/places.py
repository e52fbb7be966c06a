"""Where the files of an instance are.

    DIRECTORY/instances/NAME/                  instance.json, and who restores from it
    VOLUME/instances/NAME/SYSID-MAJOR/         wal, commit-times              (the store's volume)
    VOLUME/instances/NAME/SYSID-MAJOR/         data, tablespaces, standby, …  (the standby's)
    VOLUME/drills/NAME/                        a drill, or what one left       (the standby's)

Without volumes in the settings, DIRECTORY is both.  Which volume it is stands in the instance's
record, so no link leads there, and settings that change later move nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from logship.errors import Code, LogshipError
from logship.identity import Incarnation

_INSTANCES = "instances"
_DRILLS = "drills"


class Volumes(msgspec.Struct, frozen=True, kw_only=True):
    """Which volumes an incarnation's files are on; "": the applier's directory."""

    store: str = ""
    standby: str = ""


class IncarnationPlaces(NamedTuple):
    """store: the directory of its WAL and what belongs to that.  standby: of the data directory
    and what belongs to that."""

    store: Path
    standby: Path

    @property
    def wal(self) -> Path:
        return self.store / "wal"


class InstancePlaces(NamedTuple):
    """directory: the applier's."""

    directory: Path
    name: str

    @property
    def home(self) -> Path:
        """What is kept of the instance whatever its incarnation; always in the directory."""
        return self.on("")

    def on(self, volume: str | Path) -> Path:
        """The instance's directory on one volume."""
        return (Path(volume) if volume else self.directory) / _INSTANCES / self.name

    def drill_on(self, volume: str | Path) -> Path:
        """The instance's directory of a drill on one volume."""
        return (Path(volume) if volume else self.directory) / _DRILLS / self.name

    def of(self, incarnation: Incarnation, volumes: Volumes) -> IncarnationPlaces:
        return IncarnationPlaces(
            self.on(volumes.store) / str(incarnation), self.on(volumes.standby) / str(incarnation)
        )


def spool_beside(into: Path) -> Path:
    """Where a restore into `into` puts WAL that it fetches."""
    return into.with_name(f".{into.name}.wal")


def check_mounted(places: IncarnationPlaces, volumes: Volumes) -> None:
    """Raise LogshipError(STORE_FAILED, retryable) if a volume that holds files is not there: an
    empty mount point must not be taken for an instance that has nothing yet."""
    for volume, directory in ((volumes.store, places.store), (volumes.standby, places.standby)):
        if volume and not directory.is_dir():
            raise LogshipError(
                Code.STORE_FAILED,
                f"{directory} is not there, and files of the instance are in it",
                f"mount {volume}; it is tried again by itself",
                retryable=True,
            )


def check_volumes(volumes: Iterable[Volumes]) -> None:
    """Raise LogshipError(STORE_FAILED, retryable) if one of them is not there: what can't be seen
    must not be taken for removed."""
    for volume in dict.fromkeys(path for each in volumes for path in (each.store, each.standby)):
        # It was made with the first files, and nothing removes it.
        if volume and not (Path(volume) / _INSTANCES).is_dir():
            raise LogshipError(
                Code.STORE_FAILED,
                f"{volume} is not mounted, and files that are to be removed are on it",
                f"mount {volume}; if it is gone for good: mkdir -p "
                f"{shlex.quote(volume)}/{_INSTANCES}",
                retryable=True,
            )

"""Which volume a new cluster's WAL and data go to: the one with the most room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from applier.fleet.places import InstancePlaces, Volumes
from applier.settings import ApplierSettings
from logship import durable
from logship.errors import Code, LogshipError
from logship.identity import Incarnation


class VolumeFacts(NamedTuple):
    """free_bytes: for the applier's user.  instances: how many have files there already."""

    path: Path
    free_bytes: int
    instances: int


def roomiest(volumes: Sequence[VolumeFacts]) -> VolumeFacts:
    """The one with the most free bytes; of several the one with the fewest instances, then the
    first.  There must be one."""
    return min(volumes, key=lambda each: (-each.free_bytes, each.instances))


def look(volumes: Sequence[Path]) -> list[VolumeFacts]:
    """What there is; a volume that is away, or that we may not write to, is left out.  Blocks."""
    found = []
    for path in volumes:
        try:
            free_bytes = shutil.disk_usage(path).free
        except OSError:
            continue
        if path.is_dir() and os.access(path, os.W_OK | os.X_OK):
            instances = path / "instances"
            count = len(os.listdir(instances)) if instances.is_dir() else 0
            found.append(VolumeFacts(path, free_bytes, count))
    return found


def place(settings: ApplierSettings, places: InstancePlaces, incarnation: Incarnation) -> Volumes:
    """Choose volumes for a new incarnation and make its directories on them, durably.

    Remember what is returned before anything is put there.  Raises LogshipError(STORE_FAILED,
    retryable): no volume can be used.  Blocks.
    """
    volumes = Volumes(
        store=_choose("store.volumes", settings.store.volumes),
        standby=_choose("standby.volumes", settings.standby.volumes),
    )
    try:
        for volume in (volumes.store, volumes.standby):
            if volume:
                durable.make_directory(places.on(volume) / str(incarnation), 0o711)
    except OSError as error:
        raise LogshipError(
            Code.STORE_FAILED,
            f"{error.filename} can't be made: {error.strerror}",
            "give the volume to the user that the applier runs as",
            retryable=True,
        ) from error
    return volumes


def _choose(setting: str, volumes: Sequence[Path]) -> str:
    if not volumes:
        return ""
    found = look(volumes)
    if not found:
        listed = ", ".join(str(path) for path in volumes)
        raise LogshipError(
            Code.STORE_FAILED,
            f"no volume of {setting} can be written to: {listed}",
            "mount one, and give it to the user that the applier runs as",
            retryable=True,
        )
    return str(roomiest(found).path)

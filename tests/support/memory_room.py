"""Whether files in memory have room: what the file system, the machine and our cgroup permit."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_FILES_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_FILES_V2 = ("memory.max", "memory.current", "inactive_file")


def holds_servers(directory: Path, room_bytes: int) -> bool:
    """Whether `directory` is there for us, programs run there, and so much more may come there."""
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        return False
    if os.statvfs(directory).f_flag & os.ST_NOEXEC:
        return False
    # The file system may be larger than what there is to back it.
    free = min(shutil.disk_usage(directory).free, _available_bytes())
    own = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    return min(free, *cgroup_available_bytes(own)) >= room_bytes


def cgroup_available_bytes(own: str, cgroups: Path = _CGROUPS) -> list[int]:
    """What is left of the memory limits of the cgroups in `own` (/proc/self/cgroup); cached files
    give way.  Empty where there is no limit."""
    found = []
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        home, files = (cgroups / controllers, _FILES_V1) if controllers else (cgroups, _FILES_V2)
        # In a container a path may be the host's, and what is mounted the container's own.
        place = home / path.strip("/")
        if not (place / files[0]).exists():
            place = home
        limit, usage, cached = files
        # "max", or nothing there: no limit.
        with contextlib.suppress(OSError, ValueError, KeyError):
            lines = (place / "memory.stat").read_text(encoding="ascii").splitlines()
            stat = dict(each.split() for each in lines)
            used = int((place / usage).read_text()) - int(stat[cached])
            found.append(int((place / limit).read_text()) - used)
    return found


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return 0

"""The kernel's own limit on a server's memory: a cgroup (version 2) of each, where permitted.

The cgroups of the servers are siblings of our own, as a cgroup with processes in it can't hand
its controllers on to children.  So root may make them; another user where systemd delegates a
subtree to the applier (`Delegate=memory` with `DelegateSubgroup=`).  PostgreSQL's parameters keep
a server within its share as a rule; this is for what they do not bound.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

PREFIX: Final = "logship-standby-"
MAX_PER_HIGH: Final = 2
"""Above its share (memory.high) a server is slowed down and has to give memory back; at so many
times the share (memory.max) the kernel ends one of its processes."""
_MEGABYTE: Final = 1 << 20
_CONTROL: Final = "cgroup.subtree_control"
"""The controllers that the children of a cgroup have."""


class Cgroups:
    """Where the cgroups of the servers are made; `parent` is None where they can't be, `why` says
    the reason then.  The methods block shortly."""

    def __init__(self, parent: Path | None, why: str = "") -> None:
        self.parent = parent
        self.why = why

    @classmethod
    def find(cls, proc: Path = Path("/proc/self")) -> Cgroups:
        """Look where our own is, and whether the memory of others beside it can be limited.
        Changes nothing."""
        try:
            own = _own_directory(proc)
        except OSError as error:
            return cls(None, f"{error.filename}: {error.strerror}")
        if own is None:
            return cls(None, "the applier's own cgroup is none of version 2 with a parent")
        parent = own.parent
        try:
            if not _has_memory(parent / "cgroup.controllers"):
                return cls(None, f"{parent} has no memory controller")
            control = parent / _CONTROL
            places = [parent] if _has_memory(control) else [parent, control]
        except OSError as error:
            return cls(None, f"{error.filename}: {error.strerror}")
        closed = [place for place in places if not os.access(place, os.W_OK)]
        return cls(None, f"{closed[0]} can't be written to") if closed else cls(parent)

    def contain(self, name: str, pid: int, share_mb: int) -> bool:
        """Hold the server with that postmaster, and all its processes, to its share.  Returns
        whether it is; says why if not, and never raises: the server runs in any case."""
        if self.parent is None:
            return False
        group = self.parent / (PREFIX + name)
        try:
            if not _has_memory(self.parent / _CONTROL):
                _write(self.parent / _CONTROL, "+memory")
            group.mkdir(exist_ok=True)
            _write(group / "memory.high", str(share_mb * _MEGABYTE))
            _write(group / "memory.max", str(MAX_PER_HIGH * share_mb * _MEGABYTE))
            # First the postmaster, so that what it forks meanwhile is in there as well.
            _write(group / "cgroup.procs", str(pid))
            for child in _children(pid):
                _move(group, child)
        except OSError as error:
            log.warning(
                "no memory limit by the kernel", instance=name, cgroup=str(group), why=str(error)
            )
            return False
        return True

    def remove(self, name: str) -> None:
        """That server was stopped: nothing of its limit stays.  Never raises: what is in use by a
        process that ends later stays, empty, until the server is stopped the next time."""
        if self.parent is None:
            return
        group = self.parent / (PREFIX + name)
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning(
                "a cgroup can't be removed", instance=name, cgroup=str(group), why=str(error)
            )

    def lift(self, name: str) -> None:
        """That server runs on, and is not ours any more: the kernel holds it to nothing.  Never
        raises."""
        if self.parent is None:
            return
        group = self.parent / (PREFIX + name)
        try:
            for limit in ("memory.high", "memory.max"):
                if group.is_dir():
                    _write(group / limit, "max")
        except OSError as error:
            log.warning(
                "the kernel still limits a server's memory",
                instance=name,
                cgroup=str(group),
                why=str(error),
            )


def _own_directory(proc: Path) -> Path | None:
    """Ours in the file system; None: it is none of version 2, or the topmost that is seen here."""
    path = next(
        (
            line.removeprefix("0::")
            for line in (proc / "cgroup").read_text().splitlines()
            if line.startswith("0::")
        ),
        None,
    )
    mounted = _mount(proc)
    if path is None or mounted is None:
        return None
    root, mount_point = mounted
    inside = os.path.relpath(path, root)
    return None if inside == "." or inside.startswith("..") else mount_point / inside


def _mount(proc: Path) -> tuple[str, Path] | None:
    """Root and place of the first cgroup2 file system (`proc_pid_mountinfo(5)`)."""
    for line in (proc / "mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            _, _, _, root, mount_point = fields.split()[:5]
            return root, Path(mount_point)
    return None


def _has_memory(listing: Path) -> bool:
    """Whether a list of controllers has that of memory.  Raises OSError."""
    return "memory" in listing.read_text().split()


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _move(group: Path, pid: str) -> None:
    try:
        _write(group / "cgroup.procs", pid)
    except ProcessLookupError:
        return  # it ended meanwhile


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)

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


class Cgroups:
    """Where the cgroups of the servers are made; `parent` is None where they can't be, `why` says
    the reason then.  The methods block shortly."""

    def __init__(self, parent: Path | None, why: str = "") -> None:
        self.parent = parent
        self.why = why

    @classmethod
    def find(cls, proc: Path = Path("/proc/self")) -> Cgroups:
        """Look where our own is, and whether the memory of others beside it can be limited."""
        try:
            own = _own_directory(proc)
        except OSError as error:
            return cls(None, f"{error.filename}: {error.strerror}")
        if own is None:
            return cls(None, "the applier's own cgroup is none of version 2 with a parent")
        parent = own.parent
        try:
            _enable_memory(parent)
        except OSError as error:
            return cls(None, f"{error.filename or parent}: {error.strerror}")
        if not os.access(parent, os.W_OK):
            return cls(None, f"{parent} can't be written to")
        return cls(parent)

    def contain(self, name: str, pid: int, share_mb: int) -> bool:
        """Hold the server with that postmaster, and all its processes, to its share.  Returns
        whether it is; says why if not, and never raises: the server runs in any case."""
        if self.parent is None:
            return False
        group = self.parent / (PREFIX + name)
        try:
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


def _enable_memory(parent: Path) -> None:
    """Have the children of `parent` get memory limits.  Raises OSError."""
    if "memory" not in (parent / "cgroup.controllers").read_text().split():
        raise OSError(0, "the memory controller is not there", str(parent))
    control = parent / "cgroup.subtree_control"
    if "memory" not in control.read_text().split():
        _write(control, "+memory")


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

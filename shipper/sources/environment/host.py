"""What the primary's host tells of itself, if the shipper runs on it.

The server's process is looked for under the id that the server says.  A container, or another
machine, has other processes under that id, or none.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from logship import host

_PROCESSES = Path("/proc")


class HostSoftware(NamedTuple):
    """Fields as in `logship.environment.Environment`; "" is not known."""

    operating_system: str = ""
    libc: str = ""
    icu: str = ""


ELSEWHERE = HostSoftware()


def host_software(backend_pid: int, user: str) -> HostSoftware:
    """ELSEWHERE unless the session with this id is a process here, and its server's program is a
    file here.  Reads that file, so call it in a thread."""
    try:
        program = _program_of(backend_pid, user)
        icu = host.icu_of(program) if program is not None else None
    except (OSError, ValueError):
        return ELSEWHERE
    if program is None:
        return ELSEWHERE
    return HostSoftware(host.operating_system(), host.libc(), icu or "")


def _program_of(backend_pid: int, user: str) -> Path | None:
    process = _PROCESSES / str(backend_pid)
    # A session of PostgreSQL names its user: "postgres: logship orders 192.0.2.1(53214) idle".
    title = (process / "cmdline").read_bytes().replace(b"\0", b" ")
    if not title.startswith(b"postgres: ") or f" {user} ".encode() not in title:
        return None
    # The second field, the command, may have blanks and brackets in it.
    _, _, fields = (process / "stat").read_text(encoding="utf-8").rpartition(")")
    parent = int(fields.split()[1])
    program = Path((_PROCESSES / str(parent) / "cmdline").read_bytes().split(b"\0")[0].decode())
    return program if program.is_absolute() else None

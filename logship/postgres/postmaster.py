"""Who runs a data directory: `postmaster.pid`, and whether it tells the truth.

Source: `src/include/utils/pidfile.h` (its lines), `CreateLockFile` in
`src/backend/utils/init/miscinit.c` (what a starting server does with a file it finds).
After SIGKILL or a reboot the file stays, and its process id may by then be anyone's: with
many servers under one account, soon another server's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import struct
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

PID_FILE = "postmaster.pid"

_MAX_BYTES = 8192
"""Two paths of MAXPGPATH, 1024, and some numbers: more is no file of a server."""
_DIGITS = re.compile(r"\A[0-9]{1,10}\Z")


_IPC_RMID = 0
_SHM_RDONLY = 0o10000
"""<linux/ipc.h>, <linux/shm.h>"""

_POSIX_SEGMENTS = Path("/dev/shm")
_SEGMENT = struct.Struct("@iiNNIPLL")
_SEGMENT_MAGIC = 679834894
"""`PGShmemHeader` (pg_shmem.h): …, the handle of dynamic shared memory's control segment, …, and
the device and the inode of the data directory."""
_CONTROL = struct.Struct("@III4x")
_CONTROL_ITEM = struct.Struct("@IINNP?7x")
_CONTROL_MAGIC = 0x9A503D32
"""`dsm_control_header`, `dsm_control_item` (dsm.c): how many items there are; handle and number of
references of each."""


class Status(StrEnum):
    """What a server says of itself (line 8), or STOPPED if none runs."""

    STOPPED = "stopped"
    STARTING = "starting"
    """Also: a hot standby that replays and is not consistent yet."""
    STANDBY = "standby"
    """Replays and takes no connections, as `hot_standby` is off."""
    READY = "ready"
    """Takes connections."""
    STOPPING = "stopping"


class PidFile(NamedTuple):
    """The lines of a postmaster.pid that matter here; later ones may not be written yet."""

    pid: int
    port: int | None
    socket_directory: Path | None
    status: Status


def read_pid_file(data_directory: Path) -> PidFile | None:
    """What the file says, true or not; None if there is none or it is not written yet."""
    try:
        with (data_directory / PID_FILE).open("rb") as file:
            text = os.fsdecode(file.read(_MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    lines = [line.strip() for line in text.split("\n")] + [""] * 8
    pid = _number(lines[0].removeprefix("-"), 0x7FFFFFFF)  # negative: a single-user backend
    if not pid:
        return None
    status = Status.STARTING
    with contextlib.suppress(ValueError):
        status = Status(lines[7])
    port = _number(lines[3], 0xFFFF)
    return PidFile(pid, port, Path(lines[4]) if lines[4] else None, status)


def _number(text: str, largest: int) -> int | None:
    """ASCII digits that make at most `largest`, else None: a damaged file says anything."""
    if _DIGITS.match(text) is None or int(text) > largest:
        return None
    return int(text)


def running_postmaster(data_directory: Path) -> PidFile | None:
    """The pid file, if a server of this very data directory runs under its process id."""
    found = read_pid_file(data_directory)
    if found is None or not _runs_in(found.pid, data_directory):
        return None
    return found


def stale_locks(data_directory: Path) -> list[Path]:
    """Lock files of a dead server that would keep a new one from starting.

    A starting server removes a dead one's files itself, unless their process id is in use:
    then it gives up, whoever that process is (`CreateLockFile`).  Those are returned here:
    postmaster.pid, and the unix socket's with the same process id in it.  Not told apart by
    process id is shared memory still attached to: that a starting server checks by itself.
    """
    found = read_pid_file(data_directory)
    if found is None or not _exists(found.pid) or _runs_in(found.pid, data_directory):
        return []
    locks = [data_directory / PID_FILE]
    if found.port is not None and found.socket_directory is not None:
        socket_lock = found.socket_directory / f".s.PGSQL.{found.port}.lock"
        with contextlib.suppress(OSError, ValueError, IndexError):
            if int(socket_lock.read_text(encoding="utf-8").splitlines()[0]) == found.pid:
                locks.append(socket_lock)
    return locks


def remove_shared_memory(data_directory: Path) -> None:
    """Remove the shared memory that a killed server left, before its directory goes: the System V
    segment, and from /dev/shm what it had of dynamic shared memory.

    Only its next start would, and the kernel has room for 4096 System V segments in all (SHMMNI).
    Line 7 of postmaster.pid has the segment's key and id (`LOCK_FILE_LINE_SHMEM_KEY`, pidfile.h).
    Nothing happens while a server runs there.
    """
    if running_postmaster(data_directory) is not None:
        return
    with contextlib.suppress(OSError, IndexError, ValueError):
        lines = (data_directory / PID_FILE).read_text(encoding="utf-8").splitlines()
        key, identifier = map(int, lines[6].split())
        libc = ctypes.CDLL(None)
        # Ids are given again: only the one that still has this key is that server's.
        if libc.shmget(ctypes.c_int(key), ctypes.c_size_t(0), 0) == identifier:
            directory = data_directory.stat()
            start = _start_of_segment(libc, identifier)
            magic, _, _, _, control, _, device, inode = _SEGMENT.unpack(start)
            # As the server itself compares (`PGSharedMemoryAttach`): that of a copied directory
            # may be the original's.
            if (magic, device, inode) == (_SEGMENT_MAGIC, directory.st_dev, directory.st_ino):
                _remove_dynamic(control, directory.st_uid)
                libc.shmctl(identifier, _IPC_RMID, None)


def _start_of_segment(libc: ctypes.CDLL, identifier: int) -> bytes:
    """Of a System V segment.  Raises PermissionError."""
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(identifier, None, _SHM_RDONLY)
    if address in (None, ctypes.c_void_p(-1).value):
        raise PermissionError(f"System V segment {identifier}")
    try:
        return ctypes.string_at(address, _SEGMENT.size)
    finally:
        libc.shmdt(ctypes.c_void_p(address))


def _remove_dynamic(control: int, owner: int) -> None:
    """As `dsm_cleanup_using_control_segment` (dsm.c) does at the next start, in /dev/shm."""
    with contextlib.suppress(OSError, struct.error):
        content = (_POSIX_SEGMENTS / f"PostgreSQL.{control}").read_bytes()
        magic, count, _ = _CONTROL.unpack_from(content)
        if magic != _CONTROL_MAGIC:
            return
        items = content[_CONTROL.size :][: count * _CONTROL_ITEM.size]
        found = _CONTROL_ITEM.iter_unpack(items)
        for handle in [*(handle for handle, references, *_ in found if references), control]:
            path = _POSIX_SEGMENTS / f"PostgreSQL.{handle}"
            with contextlib.suppress(FileNotFoundError):
                # What is named there is what the server's account wrote.
                if path.lstat().st_uid == owner:
                    path.unlink()


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _runs_in(pid: int, data_directory: Path) -> bool:
    """Whether `pid` is a `postgres` that works in this data directory, as a postmaster does."""
    process = Path(f"/proc/{pid}")
    try:
        program = str((process / "exe").readlink()).removesuffix(" (deleted)")  # upgraded
        return Path(program).name == "postgres" and (process / "cwd").samefile(data_directory)
    except PermissionError:
        # Root in a container without CAP_SYS_PTRACE may not look, but everybody sees this.
        return _command_names(process, data_directory)
    except OSError:
        return False  # gone, or a zombie


def _command_names(process: Path, data_directory: Path) -> bool:
    """Whether the command line is that of a postmaster started as `pg_ctl` does."""
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        at = words.index(b"-D")
        given = Path(os.fsdecode(words[at + 1]))
        return Path(os.fsdecode(words[0])).name == "postgres" and given.samefile(data_directory)
    except (OSError, ValueError, IndexError):
        return False

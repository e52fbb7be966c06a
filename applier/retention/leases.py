"""What running restores need, so that retention leaves it alone.

A restore is a process of its own, perhaps for hours.  It holds a file in `restores/` of the
instance's directory, locked (`flock`) for as long as it runs: a crash releases it, and whoever
finds it unlocked removes it.  All of it blocks.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from applier.retention.plan import EVERY_SEED, Need
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.lsn import plain_lsn

_DIRECTORY: Final = "restores"


class Lease(msgspec.Struct, frozen=True):
    """The seed that a restore starts from, and all WAL from its start on."""

    timeline: int
    lsn: int
    seed_id: str

    @property
    def need(self) -> Need:
        return Need(self.timeline, self.lsn, "a restore reads it")


EVERYTHING: Final = Lease(0, 0, EVERY_SEED)
"""Of a restore that still looks for its seed."""


class HeldLease:
    """One restore's.  `take` it before looking at what there is, `release` it in the end."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    @classmethod
    def take(cls, instance_directory: Path) -> HeldLease | None:
        """Hold everything.  None: nothing is kept there at all.  Raises OSError."""
        try:
            owner = instance_directory.stat()
        except FileNotFoundError:
            return None
        directory = instance_directory / _DIRECTORY
        directory.mkdir(0o755, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(directory, owner.st_uid, owner.st_gid)
        while True:
            path = directory / f"{os.getpid()}-{secrets.token_hex(4)}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                os.fchmod(fd, 0o644)  # the applier reads it, whatever our umask is
                fcntl.flock(fd, fcntl.LOCK_EX)
                if os.fstat(fd).st_nlink:
                    return cls(path, fd)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # taken for a dead one's before it was locked

    def narrow(self, lease: Lease) -> None:
        """From now on hold no more than this."""
        # Who reads it half written takes it for everything.
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, msgspec.json.encode(lease, enc_hook=plain_lsn), 0)

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def running_restores(instance_directory: Path) -> list[Lease]:
    """What the restores hold that run now.  Raises OSError."""
    try:
        paths = sorted((instance_directory / _DIRECTORY).iterdir())
    except FileNotFoundError:
        return []
    return [lease for path in paths if (lease := _read(path)) is not None]


def seeds_in_use(leases: Sequence[Lease]) -> frozenset[str]:
    """Their ids, as `plan_seeds` takes them."""
    return frozenset(lease.seed_id for lease in leases)


def _read(path: Path) -> Lease | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return json_decoder(Lease).decode(os.read(fd, 4096))
        except UNREADABLE:
            return EVERYTHING
    else:
        path.unlink(missing_ok=True)  # its restore crashed
        return None
    finally:
        os.close(fd)

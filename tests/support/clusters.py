"""Data directories: made once by initdb, then copied under an identity of their own."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import secrets
import shutil
import struct
import subprocess
import time
from pathlib import Path

import crc32c

from tests.support.processes import make_server_directory, run_as_server

# XLogLongPageHeaderData: the standard header takes 24 bytes, then comes xlp_sysid.
_SYSTEM_IDENTIFIER_IN_PAGE = 24


def initialise(
    installation: Path, data: Path, *, wal_segsize_mb: int = 16, initdb_args: tuple[str, ...] = ()
) -> None:
    """Make a data directory with initdb, trusting everyone, with superuser ``postgres``."""
    command: list[str | Path] = [
        *(installation / "bin" / "initdb", "--no-sync", "--no-instructions"),
        *("-D", data, "-U", "postgres", "--auth", "trust"),
        *("--encoding", "UTF8", "--locale", "C", "--wal-segsize", str(wal_segsize_mb)),
        *initdb_args,
    ]
    run_as_server(command, data.parent)


class ClusterTemplates:
    """Makes data directories fast: runs initdb once per kind and copies the outcome.

    Every copy gets a system identifier of its own, as if initdb had made it.
    """

    def __init__(self, directory: Path) -> None:
        """Keep the templates in ``directory``, which the servers' user can enter.

        Several processes may share it.
        """
        self._directory = directory

    def create(
        self,
        installation: Path,
        data: Path,
        *,
        wal_segsize_mb: int = 16,
        initdb_args: tuple[str, ...] = (),
    ) -> None:
        """Make the data directory ``data``, as ``initialise`` would."""
        kind = repr((str(installation), wal_segsize_mb, initdb_args))
        home = self._directory / f"template-{hashlib.sha256(kind.encode()).hexdigest()[:16]}"
        with home.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not home.exists():
                made = home.with_suffix(".new")
                shutil.rmtree(made, ignore_errors=True)  # of one that failed
                make_server_directory(made)
                initialise(
                    installation,
                    made / "data",
                    wal_segsize_mb=wal_segsize_mb,
                    initdb_args=initdb_args,
                )
                made.rename(home)
        _copy(home / "data", data)
        give_own_identity(data)


def _copy(template: Path, data: Path) -> None:
    # Of one that no server uses, with its owner and modes: a program of C takes a third.
    subprocess.run(["cp", "-a", template, data], check=True)


def give_own_identity(data: Path) -> None:
    """Give a cluster that was never started another system identifier.

    It stands in the control file, which a CRC-32C guards, and in the first page of each WAL
    segment, which nothing guards.
    """
    identifier = (int(time.time()) << 32 | secrets.randbits(32)).to_bytes(8, "little")
    control = data / "global" / "pg_control"
    content = bytearray(control.read_bytes())
    crc_at = _crc_offset(bytes(content))
    content[:8] = identifier
    content[crc_at : crc_at + 4] = struct.pack("<I", crc32c.crc32c(bytes(content[:crc_at])))
    control.write_bytes(content)
    for path in (data / "pg_wal").glob("[0-9A-F]" * 24):
        with path.open("r+b") as segment:
            segment.seek(_SYSTEM_IDENTIFIER_IN_PAGE)
            segment.write(identifier)


@functools.cache
def _crc_offset(control: bytes) -> int:
    """Where the CRC of this control file lies, which differs between majors."""
    for offset in range(64, 1024, 4):
        (stored,) = struct.unpack_from("<I", control, offset)
        if stored == crc32c.crc32c(control[:offset]):
            return offset
    raise ValueError("this control file has no valid CRC")

"""`global/pg_control`: what a data directory is, and where its last checkpoint stands.

Source: `src/include/catalog/pg_control.h` (ControlFileData, CheckPoint, DBState) of
PostgreSQL 14 to 18, as laid out on 64-bit little-endian machines.  14 to 16 write version
1300; 17 writes 1700, whose checkpoint has a `wal_level` in what was padding; 18 writes 1800,
with one more field before the nonce, so that the checksum stands four bytes later.
"""

from __future__ import annotations

import struct
import time
from enum import IntEnum
from pathlib import Path
from typing import Final

import crc32c
import msgspec

from logship.errors import Code, LogshipError
from logship.identity import Profile
from logship.lsn import Lsn

CONTROL_FILE = Path("global", "pg_control")
CONTROL_FILE_BYTES: Final = 8192
"""PG_CONTROL_FILE_SIZE: the data, and zeros."""

# Where the CRC-32C stands, which covers all before it, by pg_control_version.
_CRC_OFFSET: Final = {1300: 288, 1700: 288, 1800: 292}
_FLOAT_FORMAT: Final = 1234567.0
_WAL_LEVELS: Final = ("minimal", "replica", "logical")

_HEAD = struct.Struct("<QIII4xqQ")  # identifier, two versions, state, time, checkPoint
_CHECKPOINT_OFFSET: Final = 40
_CHECKPOINT = struct.Struct("<QII")  # redo, ThisTimeLineID, PrevTimeLineID
_RECOVERY_OFFSET: Final = 136
_RECOVERY = struct.Struct("<QI4xQQ?")  # minRecoveryPoint and its timeline, backup start, end
_PARAMETERS_OFFSET: Final = 172
_PARAMETERS = struct.Struct("<i?3xiiiii?3x")  # wal_level … track_commit_timestamp
_BUILD_OFFSET: Final = 204
_BUILD = struct.Struct("<IdIIII16x?3xI")  # maxAlign, floatFormat … data_checksum_version
_CRC = struct.Struct("<I")

_READ_ATTEMPTS = 10
_READ_PAUSE_SECONDS = 0.01


class State(IntEnum):
    """DBState: what the server was doing when it last wrote the file."""

    STARTUP = 0
    SHUTDOWNED = 1
    SHUTDOWNED_IN_RECOVERY = 2
    SHUTDOWNING = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    """A standby, or any recovery with a signal file."""
    IN_PRODUCTION = 6
    """A primary; says the same after it crashed."""


class ControlFile(msgspec.Struct, frozen=True, kw_only=True):
    """A control file's content, under PostgreSQL's names where they say enough."""

    system_identifier: int
    pg_control_version: int
    catalog_version: int
    state: State
    written_at: int
    """Seconds since the epoch, by the server's clock."""
    checkpoint_lsn: Lsn
    redo_lsn: Lsn
    """Recovery starts to read WAL here."""
    timeline: int
    """Of the last checkpoint; a promoted server's new timeline shows with its next one."""
    min_recovery_end_lsn: Lsn
    """A standby is consistent once it replayed up to here; 0 on a primary."""
    min_recovery_end_timeline: int
    backup_start_lsn: Lsn
    """Not 0: a base backup whose end record was not replayed yet."""
    backup_end_lsn: Lsn
    backup_end_required: bool
    wal_level: str
    wal_log_hints: bool
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    track_commit_timestamp: bool
    alignment: int
    block_size: int
    relation_segment_blocks: int
    wal_block_size: int
    wal_segment_size: int
    """Bytes."""
    float8_by_value: bool
    data_checksum_version: int
    """0: no data checksums."""

    def profile(
        self,
        *,
        server_version_num: int,
        architecture: str,
        bootstrap_superuser: str = "postgres",
        data_directory: str = "",
    ) -> Profile:
        """What the version check compares, of this cluster under that server."""
        return Profile(
            system_identifier=self.system_identifier,
            server_version_num=server_version_num,
            catalog_version=self.catalog_version,
            control_version=self.pg_control_version,
            block_size=self.block_size,
            wal_block_size=self.wal_block_size,
            wal_segment_size=self.wal_segment_size,
            segment_size=self.relation_segment_blocks * self.block_size,
            data_checksums=self.data_checksum_version != 0,
            architecture=architecture,
            alignment=self.alignment,
            float8_by_value=self.float8_by_value,
            max_connections=self.max_connections,
            max_worker_processes=self.max_worker_processes,
            max_wal_senders=self.max_wal_senders,
            max_prepared_transactions=self.max_prepared_transactions,
            max_locks_per_transaction=self.max_locks_per_transaction,
            track_commit_timestamp=self.track_commit_timestamp,
            wal_level=self.wal_level,
            bootstrap_superuser=bootstrap_superuser,
            data_directory=data_directory,
        )


def read_control_file(data_directory: Path) -> ControlFile:
    """Read a data directory's control file, also while its server runs.

    A running server may be writing the file, so a wrong checksum is looked at again, as
    PostgreSQL's own tools do (`get_controlfile`): blocks for at most 0.1 s.

    Raises LogshipError(CONTROL_FILE): missing, unreadable, damaged, or of a version that is
    not supported.
    """
    path = data_directory / CONTROL_FILE
    for _ in range(_READ_ATTEMPTS - 1):
        content = _read(path)
        if _checksum_fits(content):
            return parse_control_file(content, path)
        time.sleep(_READ_PAUSE_SECONDS)
    return parse_control_file(_read(path), path)


def parse_control_file(content: bytes, path: Path = CONTROL_FILE) -> ControlFile:
    """Read a control file's content; `path` is for messages.  Raises as `read_control_file`."""
    _check(content, path)
    identifier, version, catalog_version, state, written_at, checkpoint = _HEAD.unpack_from(content)
    redo, timeline, _ = _CHECKPOINT.unpack_from(content, _CHECKPOINT_OFFSET)
    minimum, minimum_timeline, backup_start, backup_end, end_required = _RECOVERY.unpack_from(
        content, _RECOVERY_OFFSET
    )
    wal_level, hints, connections, workers, senders, prepared, locks, commit_timestamp = (
        _PARAMETERS.unpack_from(content, _PARAMETERS_OFFSET)
    )
    alignment, float_format, block, relation_blocks, wal_block, wal_segment, by_value, checksums = (
        _BUILD.unpack_from(content, _BUILD_OFFSET)
    )
    if float_format != _FLOAT_FORMAT or not 0 <= wal_level < len(_WAL_LEVELS):
        raise _bad(path, "its fields are not where they should be", "is this machine 64-bit?")
    return ControlFile(
        system_identifier=identifier,
        pg_control_version=version,
        catalog_version=catalog_version,
        state=State(state),
        written_at=written_at,
        checkpoint_lsn=Lsn(checkpoint),
        redo_lsn=Lsn(redo),
        timeline=timeline,
        min_recovery_end_lsn=Lsn(minimum),
        min_recovery_end_timeline=minimum_timeline,
        backup_start_lsn=Lsn(backup_start),
        backup_end_lsn=Lsn(backup_end),
        backup_end_required=end_required,
        wal_level=_WAL_LEVELS[wal_level],
        wal_log_hints=hints,
        max_connections=connections,
        max_worker_processes=workers,
        max_wal_senders=senders,
        max_prepared_transactions=prepared,
        max_locks_per_transaction=locks,
        track_commit_timestamp=commit_timestamp,
        alignment=alignment,
        block_size=block,
        relation_segment_blocks=relation_blocks,
        wal_block_size=wal_block,
        wal_segment_size=wal_segment,
        float8_by_value=by_value,
        data_checksum_version=checksums,
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(CONTROL_FILE_BYTES)
    except OSError as error:
        raise _bad(
            path,
            error.strerror or str(error),
            "check that this is a PostgreSQL data directory and who may read it",
        ) from error


def _version(content: bytes) -> int:
    return int.from_bytes(content[8:12], "little")


def _checksum_fits(content: bytes) -> bool:
    offset = _CRC_OFFSET.get(_version(content), 0)
    if not offset or len(content) < offset + _CRC.size:
        return True  # another fault, which looking again does not mend
    return bool(crc32c.crc32c(content[:offset]) == _CRC.unpack_from(content, offset)[0])


def _check(content: bytes, path: Path) -> None:
    if len(content) != CONTROL_FILE_BYTES:
        raise _bad(path, f"it has {len(content)} bytes, not {CONTROL_FILE_BYTES}", _DAMAGED_HINT)
    version = _version(content)
    if version not in _CRC_OFFSET:
        if int.from_bytes(content[8:12], "big") in _CRC_OFFSET:
            raise _bad(path, "it is of a machine with the other byte order", "use such a machine")
        known = ", ".join(str(one) for one in _CRC_OFFSET)
        raise _bad(
            path,
            f"its version is {version}, known are {known}",
            "supported are PostgreSQL 14 to 18",
        )
    if not _checksum_fits(content):
        raise _bad(path, "its checksum is wrong", _DAMAGED_HINT)
    state = _HEAD.unpack_from(content)[3]
    if state not in State.__members__.values():
        raise _bad(path, f"its state is {state}", _DAMAGED_HINT)


_DAMAGED_HINT = "the data directory is damaged: restore it, or take a new seed"


def _bad(path: Path, why: str, hint: str) -> LogshipError:
    return LogshipError(Code.CONTROL_FILE, f"the control file {path} can't be used: {why}", hint)

"""The control file as we read it, against what five majors say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.postgres.control_file import (
    CONTROL_FILE,
    State,
    read_control_file,
)
from tests.conftest import PrimaryFactory
from tests.support.installations import all_majors
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def primary(primary: PrimaryFactory) -> PrimaryFactory:
    """Servers that do not fsync: nothing here needs it, and it takes most of the time."""

    def make(
        *args: Any, settings: Mapping[str, str] | None = None, **arguments: Any
    ) -> PrimaryServer:
        return primary(*args, settings={"fsync": "off", **(settings or {})}, **arguments)

    return make


SETTINGS = {
    "max_connections": "37",
    "max_worker_processes": "11",
    "max_wal_senders": "7",
    "max_prepared_transactions": "3",
    "max_locks_per_transaction": "77",
    "track_commit_timestamp": "on",
    "wal_level": "logical",
}


@all_majors
def test_every_field_is_what_the_server_says(primary: PrimaryFactory, major: int) -> None:
    server = primary(major, wal_segsize_mb=4, settings=SETTINGS, initdb_args=("--data-checksums",))
    server.execute("checkpoint")
    control = read_control_file(server.data)

    system = server.execute(
        "select pg_control_version, catalog_version_no, system_identifier from pg_control_system()"
    )
    assert [
        (control.pg_control_version, control.catalog_version, control.system_identifier)
    ] == system
    checkpoint = server.execute(
        "select checkpoint_lsn::text, redo_lsn::text, timeline_id from pg_control_checkpoint()"
    )
    assert [(str(control.checkpoint_lsn), str(control.redo_lsn), control.timeline)] == checkpoint
    init = server.execute(
        "select max_data_alignment, database_block_size, blocks_per_segment, wal_block_size,"
        " bytes_per_wal_segment, float8_pass_by_value, data_page_checksum_version"
        " from pg_control_init()"
    )
    assert [
        (
            control.alignment,
            control.block_size,
            control.relation_segment_blocks,
            control.wal_block_size,
            control.wal_segment_size,
            control.float8_by_value,
            control.data_checksum_version,
        )
    ] == init
    assert control.wal_segment_size == 4 << 20
    assert control.state is State.IN_PRODUCTION
    assert {
        "max_connections": str(control.max_connections),
        "max_worker_processes": str(control.max_worker_processes),
        "max_wal_senders": str(control.max_wal_senders),
        "max_prepared_transactions": str(control.max_prepared_transactions),
        "max_locks_per_transaction": str(control.max_locks_per_transaction),
        "track_commit_timestamp": "on" if control.track_commit_timestamp else "off",
        "wal_level": control.wal_level,
    } == SETTINGS

    server.stop()
    assert read_control_file(server.data).state is State.SHUTDOWNED


@all_majors
def test_a_standby_shows_its_recovery(
    primary: PrimaryFactory, shared_tmp_path: Path, major: int
) -> None:
    server = primary(major)
    clone = server.clone_as_standby(shared_tmp_path / "standby")
    server.execute("create table t as select generate_series(1, 100000) as n")
    target = server.current_wal_lsn()
    wait_until(lambda: clone.current_wal_lsn() >= target, 30, "replay")
    server.execute("checkpoint")
    clone.execute("checkpoint")
    rows = clone.execute(
        "select min_recovery_end_lsn::text, min_recovery_end_timeline, backup_start_lsn::text,"
        " end_of_backup_record_required from pg_control_recovery()"
    )
    control = read_control_file(clone.data)
    assert control.state is State.IN_ARCHIVE_RECOVERY
    assert control.min_recovery_end_lsn > Lsn(0)
    assert rows == [
        (
            str(control.min_recovery_end_lsn),
            control.min_recovery_end_timeline,
            str(control.backup_start_lsn),
            control.backup_end_required,
        )
    ]


@pytest.mark.parametrize("major", [16, 17, 18])  # one for each version of the file
def test_a_damaged_file_is_refused(primary: PrimaryFactory, major: int) -> None:
    server = primary(major, start=False)
    path = server.data / CONTROL_FILE
    good = path.read_bytes()
    for damage, says in (
        (good[:100] + bytes([good[100] ^ 1]) + good[101:], "checksum"),
        (good[:4096], "4096 bytes"),
        (good[:8] + (1201).to_bytes(4, "little") + good[12:], "version is 1201"),
        (good[:8] + good[8:12][::-1] + good[12:], "byte order"),
    ):
        path.write_bytes(damage)
        with pytest.raises(LogshipError, match=says) as caught:
            read_control_file(server.data)
        assert caught.value.code is Code.CONTROL_FILE


def test_what_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogshipError, match="No such file") as caught:
        read_control_file(tmp_path)
    assert caught.value.code is Code.CONTROL_FILE

"""Outbox directories that real servers archive into."""

from __future__ import annotations

from pathlib import Path

from logship.lsn import Lsn
from logship.wal import segment_name
from shipper.commands.outbox_settings import archiving
from tests.support.processes import make_server_directory
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

SEGMENT = 1 << 20


def make_outbox(path: Path) -> Path:
    """A new directory that servers can write to."""
    make_server_directory(path, 0o770)
    return path


def archive_settings(major: int, outbox: Path) -> dict[str, str]:
    """What `shipper outbox-command` prints for `major`."""
    return {each.name: each.value for each in archiving(major, outbox)}


def wait_archived(server: PrimaryServer, outbox: Path) -> Lsn:
    """Finish the current segment; returns its end once the archiver has delivered it."""
    (timeline, end), *_ = server.execute(
        "select left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), pg_switch_wal()::text"
    )
    switched = Lsn.parse(end)
    segment_bytes = int(
        server.execute("select setting from pg_settings where name = 'wal_segment_size'")[0][0]
    )
    name = segment_name(int(timeline, 16), switched - 1, segment_bytes)
    archived = "select last_archived_wal >= %s from pg_stat_archiver"
    wait_until(
        lambda: (outbox / name).exists() or server.execute(archived, name)[0][0],
        90,  # an archiver that gets another library ends, and is started again 10 s later
        f"{name} is archived",
    )
    return switched

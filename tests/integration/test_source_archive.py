"""Source `archive` against real servers and real directories: the contract, and what is its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from logship.lsn import Lsn
from logship.wal import parse_segment_name, segment_name
from shipper.sources.archive import ArchiveSource
from tests.conftest import PrimaryFactory
from tests.integration.source_contract import (
    SourceContract,
)
from tests.support.installations import MAJORS
from tests.support.outboxes import SEGMENT, archive_settings, make_outbox, wait_archived
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


class ArchiveRig:
    """A primary and a standby of it that can take over; both archive into one outbox."""

    segment_bytes = SEGMENT

    def __init__(self, server: PrimaryServer, directory: Path, outbox: Path) -> None:
        self.server = server
        self.directory = directory
        self.outbox = outbox
        self.old_data: Path | None = None
        self.standby: PrimaryServer | None = None
        self.server.execute("create table t (v text)")

    def conninfo(self) -> str:
        servers = [self.server] + ([self.standby] if self.standby else [])
        ports = ",".join(str(server.port) for server in servers)
        hosts = ",".join("127.0.0.1" for _ in servers)
        return (
            f"host={hosts} port={ports} user=postgres dbname=postgres"
            " target_session_attrs=read-write"
        )

    def make_source(self) -> ArchiveSource:
        if self.standby is None:
            self.standby = self.server.clone_as_standby(self.directory / "standby")
        return ArchiveSource(
            self.conninfo(),
            outbox=self.outbox,
            memory_file=self.directory / "outbox.json",
            application_name="logship_test",
            connect_timeout_seconds=5,
        )

    def write(self) -> Lsn:
        self.server.execute("insert into t select repeat('x', 200) from generate_series(1, 500)")
        return wait_archived(self.server, self.outbox)

    def wal_file(self, timeline: int, lsn: int) -> Path:
        name = segment_name(timeline, lsn, self.segment_bytes)
        here = self.server.data / "pg_wal" / name
        if here.exists() or self.old_data is None:
            return here
        return self.old_data / "pg_wal" / name

    def switch_timeline(self) -> None:
        assert self.standby is not None
        target = self.write()
        standby = self.standby
        replayed = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
        wait_until(
            lambda: standby.execute(replayed, str(target))[0][0], 30, "the standby caught up"
        )
        self.server.stop("immediate")
        standby.promote()
        self.old_data = self.server.data
        self.server, self.standby = standby, self.server

    def restart(self) -> None:
        self.server.restart()

    def kept_from(self) -> Lsn | None:
        places = [
            parse_segment_name(path.name, self.segment_bytes)[1]
            for path in self.outbox.iterdir()
            if len(path.name) == 24
        ]
        return min(places, default=None)


class TestArchiveSource(SourceContract):
    @pytest.fixture(params=MAJORS)
    def rig(
        self, request: pytest.FixtureRequest, primary: PrimaryFactory, shared_tmp_path: Path
    ) -> ArchiveRig:
        outbox = make_outbox(shared_tmp_path / "outbox")
        server = primary(
            request.param,
            wal_segsize_mb=1,
            settings={"wal_keep_size": "512MB", **archive_settings(request.param, outbox)},
        )
        return ArchiveRig(server, shared_tmp_path, outbox)

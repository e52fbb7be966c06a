"""What an instance that joins is told of the recovery server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from applier.enrolment.fleet import FleetInstances
from applier.operations.fleet import Fleet
from applier.operations.host import Host
from applier.settings import ApplierSettings
from applier.walserver.server import WalServer
from logship.postgres.run_as import RunAs
from logship.settings import parse_settings
from tests.support.link_frames import profile


@pytest.mark.parametrize("url", ["", "s3://wal-archive/logship", "file:///srv/bucket"])
async def test_a_bucket_that_others_can_reach_is_named(tmp_path: Path, url: str) -> None:
    text = f'directory = "{tmp_path}"\n' + (f'bucket.url = "{url}"\n' if url else "")
    settings = parse_settings(text, ApplierSettings, file=tmp_path / "applier.toml")
    wal_server = WalServer(
        tmp_path, 5432, allowed_uids=frozenset({os.geteuid()}), on_status=lambda *_: None
    )
    host = Host(settings, RunAs.of(None), [], wal_server)

    async def add(name: str, said: object) -> None:
        raise AssertionError("nothing is added")

    instances = FleetInstances(Fleet(settings, {}), lambda: host, add)
    told = await instances.describe("main", profile())
    assert told.standby_port == 0, "it is not there"
    version, *rest = told.notes
    assert version.startswith("no PostgreSQL 17 of at least 17.9 is on this machine")
    assert [url in note for note in rest] == ([True] if url.startswith("s3:") else [])

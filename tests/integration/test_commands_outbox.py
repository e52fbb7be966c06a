"""`shipper outbox-command`: what it prints makes real servers of each major fill an outbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from logship.wal import parse_segment_name
from tests.conftest import PrimaryFactory
from tests.integration.command_runner import run
from tests.support.installations import ARCHIVING_MAJORS, MAJORS
from tests.support.outboxes import SEGMENT, make_outbox, wait_archived
from tests.support.processes import give_to_server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

archiving_majors = pytest.mark.parametrize("major", ARCHIVING_MAJORS)


def settings_file(directory: Path, outbox: Path | None) -> Path:
    file = directory / "shipper.toml"
    archive = f'archive.outbox = "{outbox}"\nprimary.source = "archive"\n' if outbox else ""
    file.write_text(
        'instance = "main"\n'
        'primary.conninfo = "host=/tmp"\n'
        'link.address = "tcp://127.0.0.1:1"\n'
        'link.applier_public_key_file = "a.pub"\n'
        'link.secret_key_file = "main.key"\n' + archive
    )
    return file


async def printed(directory: Path, outbox: Path, major: int) -> str:
    file = settings_file(directory, outbox)
    outcome = await run("shipper", "outbox-command", "--major", str(major), "--settings", file)
    assert outcome.code == 0, outcome.err
    return outcome.out


@archiving_majors
async def test_a_server_with_what_is_printed_fills_the_outbox(
    primary: PrimaryFactory, shared_tmp_path: Path, tmp_path: Path, major: int
) -> None:
    outbox = make_outbox(shared_tmp_path / "it's 50% an outbox")
    server = primary(major, wal_segsize_mb=1, start=False)
    with (server.data / "postgresql.conf").open("a") as file:
        file.write(await printed(tmp_path, outbox, major))
    server.start()
    server.execute("create table t as select repeat('x', 900) from generate_series(1, 3000)")
    wait_archived(server, outbox)
    segments = sorted(path for path in outbox.iterdir() if len(path.name) == 24)
    assert len(segments) >= 3
    for path in segments:
        assert path.stat().st_size == SEGMENT
        parse_segment_name(path.name, SEGMENT)
        assert path.read_bytes() == (server.data / "pg_wal" / path.name).read_bytes()
    assert {path.name for path in outbox.iterdir()} == {path.name for path in segments}
    server.stop()


@archiving_majors
async def test_other_bytes_are_not_replaced(
    primary: PrimaryFactory, shared_tmp_path: Path, tmp_path: Path, major: int
) -> None:
    outbox = make_outbox(shared_tmp_path / "outbox")
    server = primary(major, wal_segsize_mb=1, start=False)
    with (server.data / "postgresql.conf").open("a") as file:
        file.write(await printed(tmp_path, outbox, major))
    server.start()
    name = server.execute("select pg_walfile_name(pg_current_wal_insert_lsn())")[0][0]
    other = outbox / name
    other.write_bytes(b"of another server")
    give_to_server(other)
    server.execute("create table t as select repeat('x', 900) from generate_series(1, 3000)")
    wait_until(
        lambda: server.execute("select failed_count > 0 from pg_stat_archiver")[0][0],
        30,
        "it fails",
    )
    assert other.read_bytes() == b"of another server"
    server.kill()


@archiving_majors
async def test_only_what_it_says_needs_a_restart(
    primary: PrimaryFactory, shared_tmp_path: Path, tmp_path: Path, major: int
) -> None:
    outbox = make_outbox(shared_tmp_path / "outbox")
    file = settings_file(tmp_path, outbox)
    outcome = await run(
        "shipper", "outbox-command", "--major", str(major), "--settings", file, "--json"
    )
    document = outcome.document
    server = primary(major, settings={"archive_mode": "on"})
    parameters = document["majors"][str(major)]
    assert [each["name"] for each in parameters if each["takes"] == "restart"] == ["archive_mode"]
    with (server.data / "postgresql.conf").open("a") as conf:
        conf.writelines(each["line"] + "\n" for each in parameters)
    server.reload()
    for each in parameters:
        # The library's own parameter is known only where the archiver has loaded it.
        if "." not in each["name"]:
            rows = server.execute(
                "select setting, pending_restart from pg_settings where name = %s", each["name"]
            )
            assert rows == [(each["value"], False)], each["name"]
    wait_archived(server, outbox)


async def test_every_major_is_printed_with_the_directory(tmp_path: Path) -> None:
    file = settings_file(tmp_path, tmp_path / "outbox")
    outcome = await run("shipper", "outbox-command", "--settings", file)
    assert all(f"# PostgreSQL {major}:" in outcome.out for major in MAJORS)
    assert f"install -d -o postgres -g postgres -m 0700 {tmp_path / 'outbox'}" in outcome.out
    outcome = await run("shipper", "outbox-command", "--config", file, "--json")
    assert list(outcome.document["majors"]) == [str(major) for major in MAJORS]


async def test_without_an_outbox_it_says_what_is_missing(tmp_path: Path) -> None:
    file = settings_file(tmp_path, None)
    outcome = await run("shipper", "outbox-command", "--settings", file)
    assert outcome.code == 2
    assert "archive.outbox" in outcome.err


async def test_a_major_that_is_not_supported_is_refused(tmp_path: Path) -> None:
    file = settings_file(tmp_path, tmp_path)
    outcome = await run("shipper", "outbox-command", "--major", "13", "--settings", file)
    assert outcome.code == 2

"""ops/primary-role.sql against real servers: with its role, and no more, everything works."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import psycopg
import pytest

from logship import host
from logship.environment import Environment
from logship.frames import SeedAborted, SeedBegin, SeedChunk, SeedEnd
from logship.lsn import Lsn
from shipper.seeding import SeedFrame, SeedSender
from shipper.sources.environment import memory
from shipper.sources.stream import StreamSource
from tests.conftest import PrimaryFactory
from tests.integration.source_contract import Collected, first_position, read_until
from tests.support.installations import all_majors, wheel_dir
from tests.support.processes import make_server_directory
from tests.support.servers import PrimaryServer

pytestmark = pytest.mark.integration

ROLE_FILE = Path(__file__).resolve().parents[2] / "ops" / "primary-role.sql"
APPLICATION_NAME = "logship_main"

ONLY_OUR_ROLE = """\
local all postgres trust
host all postgres 127.0.0.1/32 trust
host replication {role} 127.0.0.1/32 trust
host {databases} {role} 127.0.0.1/32 trust
"""


def apply_role_file(server: PrimaryServer, *variables: str) -> str:
    """Run the file as its comment says; returns what psql printed."""
    command: list[str | Path] = [wheel_dir() / "bin" / "psql", "-X", "-v", "ON_ERROR_STOP=1"]
    for variable in variables:
        command += ["-v", variable]
    command += ["-d", server.dsn(), "-f", ROLE_FILE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def admit_only(server: PrimaryServer, role: str, databases: str = "all") -> None:
    """The two lines of pg_hba.conf that the file's comment asks for, and the superuser's."""
    hba = server.data / "pg_hba.conf"
    hba.write_text(ONLY_OUR_ROLE.format(role=role, databases=databases), encoding="ascii")
    server.reload()


def furnish(server: PrimaryServer) -> None:
    """A database whose order of text and whose libraries matter to whoever replays it."""
    server.execute("create database orders encoding 'UTF8' template template0")
    with psycopg.connect(server.dsn("orders"), autocommit=True) as connection:
        connection.execute("create extension hstore")
        connection.execute('create table words (word text collate "de-x-icu" primary key)')


def check_environment(environment: Environment | None, server: PrimaryServer) -> None:
    """What surrounds a server that was furnished, as its host and its catalogs have it."""
    assert environment is not None
    assert (environment.is_complete, environment.unread) == (True, ())
    assert environment.libc == host.libc() and environment.libc
    assert environment.operating_system == host.operating_system()
    assert environment.icu == host.icu_of(server.installation / "bin" / "postgres")
    assert environment.preload_libraries == ("pg_stat_statements",)
    orders, *others = environment.databases
    assert [database.name for database in others] == ["postgres", "template1"]
    assert (orders.name, orders.provider, orders.collate) == ("orders", "c", "C")
    (german,) = orders.collations
    assert (german.name, german.provider, german.locale) == ('"de-x-icu"', "i", "de")
    assert german.recorded_version == german.actual_version != ""
    assert [found.name for found in orders.extensions] == ["hstore", "plpgsql"]
    assert orders.extensions[0].libraries == ("$libdir/hstore",)


def source_for(server: PrimaryServer, role: str, *, timeout_seconds: float = 5) -> StreamSource:
    return StreamSource(
        server.dsn(user=role),
        slot=APPLICATION_NAME,
        application_name=APPLICATION_NAME,
        connect_timeout_seconds=timeout_seconds,
    )


@all_majors
async def test_the_role_streams_seeds_and_sees_what_the_primary_says_of_it(
    primary: PrimaryFactory, major: int
) -> None:
    server = primary(major, settings={"shared_preload_libraries": "pg_stat_statements"})
    furnish(server)
    apply_role_file(server)
    admit_only(server, "logship")
    source = source_for(server, "logship")
    identity = await source.open()
    assert identity.profile.major == major
    check_environment(identity.profile.environment, server)
    assert identity.profile.bootstrap_superuser == "postgres"
    await source.start(first_position(identity), frozenset())
    collected = Collected(identity.profile.wal_segment_size)
    await read_until(source, collected, 1, Lsn.parse(server.current_wal_lsn()))
    # A standby that confirmed nothing yet is not counted on.
    source.acknowledge(collected.end, collected.end, Lsn(0))
    server.configure({"synchronous_standby_names": APPLICATION_NAME})
    server.reload()

    for _ in range(500):
        observation = await source.observe()
        if observation.sync_state == "sync":
            break
        await asyncio.sleep(0.02)
    assert observation.sync_state == "sync"
    assert observation.slot_wal_status == "reserved"
    assert observation.profile == identity.profile

    frames: list[SeedFrame] = []

    async def take(frame: SeedFrame, _payload: bytes | memoryview) -> None:
        frames.append(frame)

    sender = SeedSender(
        server.dsn(user="logship"), system_identifier=identity.profile.system_identifier
    )
    await asyncio.wait_for(sender.run(take), 60)
    await source.close()
    assert isinstance(frames[0], SeedBegin) and isinstance(frames[-1], SeedEnd)
    assert not any(isinstance(frame, SeedAborted) for frame in frames)
    assert sum(frame.raw_bytes for frame in frames if isinstance(frame, SeedChunk)) > 1 << 20


async def test_what_the_role_may_not_see_is_named_and_all_else_is_told(
    primary: PrimaryFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CLUSTER_SECONDS", 0.0)
    # Where the server knows no encoding, names and settings are text all the same.
    server = primary(18, initdb_args=("--encoding", "SQL_ASCII"))
    furnish(server)
    apply_role_file(server)
    server.execute("revoke pg_monitor from logship")
    admit_only(server, "logship", "postgres")
    source = source_for(server, "logship")
    environment = (await source.open()).profile.environment
    assert environment is not None and not environment.is_complete
    assert environment.unread == ("database orders", "shared_preload_libraries")
    assert [database.name for database in environment.databases] == [
        "orders",
        "postgres",
        "template1",
    ]

    # A database that hangs holds nothing up, and is read when it answers.
    await source.close()
    server.execute("grant pg_monitor to logship")
    admit_only(server, "logship")
    source = source_for(server, "logship", timeout_seconds=2)
    with psycopg.connect(server.dsn("orders")) as hanging:
        hanging.execute("lock table pg_catalog.pg_extension in access exclusive mode")
        environment = (await asyncio.wait_for(source.open(), 30)).profile.environment
        assert environment is not None and environment.unread == ("database orders",)
    server.execute(
        "create database crm locale_provider icu icu_locale 'de' encoding 'UTF8' template template0"
    )
    place = server.directory / "fast"
    make_server_directory(place)
    server.execute(f"create tablespace fast location '{place}'")
    for _ in range(500):
        environment = (await source.observe()).profile.environment
        assert environment is not None
        if environment.is_complete and len(environment.databases) == 4 and environment.tablespaces:
            break
        await asyncio.sleep(0.02)
    await source.close()
    assert [database.name for database in environment.databases] == [
        "crm",
        "orders",
        "postgres",
        "template1",
    ]
    crm, orders, *_ = environment.databases
    assert (crm.provider, crm.collate) == ("i", "de")
    assert crm.recorded_version == crm.actual_version != ""
    assert orders.collations
    (tablespace,) = environment.tablespaces
    assert (tablespace.name, tablespace.location) == ("fast", str(place))


async def test_the_role_has_no_other_rights(primary: PrimaryFactory) -> None:
    server = primary(18)
    apply_role_file(server)
    server.execute("create table secrets as select 1 as one")
    (attributes,) = server.execute(
        "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolcanlogin"
        " from pg_roles where rolname = 'logship'"
    )
    assert attributes == (False, False, False, False, True, True)
    with psycopg.connect(server.dsn(user="logship"), autocommit=True) as connection:
        for statement in ("select * from secrets", "create role another", "checkpoint"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


async def test_the_file_can_be_run_again_and_with_another_name(primary: PrimaryFactory) -> None:
    server = primary(14)
    apply_role_file(server)
    again = apply_role_file(server)
    assert "CREATE ROLE" not in again
    apply_role_file(server, "role=ship it")
    rows = server.execute(
        "select rolname from pg_roles where rolreplication and not rolsuper order by 1"
    )
    assert rows == [("logship",), ("ship it",)]

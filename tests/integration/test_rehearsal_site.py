"""The primary of a rehearsal, on machines of this host: real servers, and its own programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from logship.errors import Code, LogshipError
from logship.profile_document import read_profile_document
from logship.rehearsal.engine.local import LocalEngine
from logship.rehearsal.plan import Database
from logship.rehearsal.proofs.reference import contents_of
from logship.rehearsal.site import generated
from logship.rehearsal.site.cluster import Cluster
from logship.rehearsal.site.primary import Primary, Written, longest_pause_seconds
from tests.conftest import PrimaryFactory
from tests.support import upgrading
from tests.support.installations import postgres_dir
from tests.support.rehearsed import engine_of_this_host
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

QUICK = {"fsync": "off"}

DUMP = """
\\restrict abc
SET statement_timeout = 0;
CREATE TABLE public.orders (id integer PRIMARY KEY, note text);
COPY public.orders (id, note) FROM stdin;
1\tfirst
2\t\\N
\\.
CREATE INDEX orders_note ON public.orders (note);
  CLUSTER; -- all that were clustered before
	CREATE DATABASE other; -- not in the one that is connected to
\\connect other
CREATE TABLE public.here (id integer);
\\unrestrict abc
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with engine_of_this_host() as engine:
        yield engine


SLOW_COMMITS = """
create function rest() returns trigger language plpgsql
    as $$ begin perform pg_sleep(2); return null; end $$;
create constraint trigger slow after insert on {table} deferrable initially deferred
    for each row execute function rest()
"""


def check_last_commit_is_over_with_the_writer(primary: Primary) -> None:
    """Of a commit that is slow the server knows nothing of its client's end."""
    primary.sql(SLOW_COMMITS.format(table=generated.WRITES_TABLE), database=generated.DATABASE)
    primary.start_writer()
    rests = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
    wait_until(lambda: primary.sql(rests) == [[1]], 30, "a commit that takes long")
    primary.stop_writer()
    assert primary.sql(rests) == [[0]]
    primary.sql(f"drop trigger slow on {generated.WRITES_TABLE}", database=generated.DATABASE)


def check_writer_ends_while_it_waits(primary: Primary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logship.rehearsal.site.primary.SESSION_SECONDS", 1.0)
    primary.set_parameters({"synchronous_standby_names": "nobody"}, restart=False)
    primary.start_writer()
    waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
    wait_until(lambda: primary.sql(waits) == [[1]], 30, "a commit that waits for ever")
    assert primary.stop_writer().commits == 0
    primary.set_parameters({"synchronous_standby_names": ""}, restart=False)
    # Only then its row is there.
    left = f"select count(*) from pg_stat_activity where datname = '{generated.DATABASE}'"
    wait_until(lambda: primary.sql(left) == [[0]], 30, "the end of the commit")


def check_profile(primary: Primary) -> None:
    primary.write_settings("tcp://127.0.0.1:9", primary.shipper_public_key())
    profile = read_profile_document(json.loads(primary.profile()))
    assert (profile.server_version_num, profile.max_connections) == (170007, 31)
    assert profile.environment is not None
    databases = {each.name: each for each in profile.environment.databases}
    assert databases.keys() > {generated.DATABASE, generated.SECOND_DATABASE}
    words = databases[generated.SECOND_DATABASE]
    assert (words.provider, words.collate) == ("i", "und")
    assert [each.name for each in words.collations] == ['"de-x-icu"']


def test_a_primary_and_its_copy(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = tmp_path / "schema.sql"
    dump.write_text(DUMP)
    parameters = {**QUICK, "max_connections": "23"}
    asked = Database(rows=100, schema=dump, icu_locale="und", parameters=parameters)
    primary = Primary(engine.machine("primary", str(postgres_dir(17, 7))), "main", asked)
    primary.create()
    assert primary.sql("show max_connections") == [["23"]]
    orders = primary.sql("select * from orders order by id", database="rehearsal_schema")
    assert orders == [[1, "first"], [2, None]]

    primary.start_writer()
    wait_until(lambda: primary.machine.read(primary.acknowledged_file), 30, "a commit")
    before = primary.flush_lsn()
    primary.set_parameters({"max_connections": "31"})
    assert primary.sql("show max_connections") == [["31"]]
    written = primary.stop_writer()
    assert written.commits > 0
    assert 0 < written.longest_pause_seconds < 60
    assert primary.flush_lsn() > before
    acknowledged = primary.machine.read(primary.acknowledged_file).decode().split()
    assert len(acknowledged) == written.commits
    found = f"select count(*) from rehearsal_writes where id in ({','.join(acknowledged)})"
    assert primary.sql(found, database="rehearsal") == [[written.commits]]

    check_last_commit_is_over_with_the_writer(primary)
    check_writer_ends_while_it_waits(primary, monkeypatch)

    whole = contents_of(primary.server)
    assert whole.tables["rehearsal.public.people"].startswith("100 ")
    assert {"rehearsal_schema.public.orders", "other.public.here"} < whole.tables.keys()
    (writes,) = whole.sequences.values()
    assert writes.is_called and writes.last_value >= written.commits
    primary.stop()
    copy = primary.fork("copy", image=str(postgres_dir(17)))
    primary.start()
    copy.start()
    assert copy.sql("show server_version") != primary.sql("show server_version")
    copy.sql("update people set name = name || '.' where id = 7", database="rehearsal")
    other = contents_of(copy.server)
    others = [name for name, said in whole.tables.items() if said != other.tables[name]]
    assert others == ["rehearsal.public.people"]
    assert other.sequences == whole.sequences
    assert contents_of(primary.server) == whole

    check_profile(primary)
    with pytest.raises(LogshipError, match='relation "nothing" does not exist'):
        primary.sql("select * from nothing")
    with pytest.raises(LogshipError, match="nonsense"):
        copy.set_parameters({"shared_preload_libraries": "nonsense"})
    with pytest.raises(LogshipError) as missing_program:
        primary.enable_checksums(True)
    assert missing_program.value.code is Code.NO_INSTALLATION


def test_what_a_recovery_server_kept_becomes_a_primary(
    engine: LocalEngine, primary: PrimaryFactory, tmp_path: Path
) -> None:
    real = primary(
        16,
        settings={"archive_mode": "on", "archive_command": f"touch {tmp_path}/archived"},
        initdb_args=("-U", "root_of_all"),
        start=False,
    )
    (real.data / "pg_hba.conf").write_text("local all all reject\n")
    restored = Primary(engine.machine("restored", str(postgres_dir(16))), "main", Database(rows=10))
    restored.create(real.data)
    assert restored.sql("show archive_mode") == [["off"]]
    assert restored.sql("select pg_switch_wal() is null") == [[False]]
    assert restored.sql("select rolname from pg_roles where oid = 10") == [["root_of_all"]]
    assert contents_of(restored.server).tables["rehearsal.public.people"].startswith("10 ")
    assert (real.data / "pg_hba.conf").read_text() == "local all all reject\n"

    # Promoted, it would take the changes that the publisher has for the real one.
    restored.sql(
        "create subscription orders connection 'host=/x' publication p with (connect = false)",
        "update pg_subscription set subenabled = true",
    )
    restored.stop()
    programs = PurePosixPath(postgres_dir(16)) / "bin"
    Cluster(restored.machine, restored.directory, programs, copied=True).adopt()
    restored.start()
    assert restored.sql("select subname, subenabled from pg_subscription") == [["orders", False]]


@pytest.mark.skipif(not upgrading.is_there(), reason="pg_upgrade of Debian's PostgreSQL 15")
def test_pg_upgrade_and_checksums(engine: LocalEngine, shared_tmp_path: Path) -> None:
    old = upgrading.old_programs(shared_tmp_path)
    asked = Database(
        rows=50, initdb=("--wal-segsize", "4"), parameters={**QUICK, "work_mem": "5MB"}
    )
    machine = engine.machine("upgraded", f"{old}, {upgrading.DEBIAN}")
    primary = Primary(machine, "main", asked)
    primary.create()
    assert primary.major == upgrading.OLD_MAJOR
    whole = contents_of(primary.server)

    # A type that holds an OID, which pg_upgrade does not keep.
    primary.sql("create table held (a regprocedure)", database="rehearsal")
    with pytest.raises(LogshipError, match="tables_using_reg"):
        primary.upgrade_major(upgrading.NEW_MAJOR)
    assert primary.major == upgrading.OLD_MAJOR
    primary.sql("drop table held", database="rehearsal")

    primary.upgrade_major(upgrading.NEW_MAJOR)
    assert primary.major == upgrading.NEW_MAJOR
    assert contents_of(primary.server).tables == whole.tables
    assert primary.sql("show wal_segment_size") == [["4MB"]]
    assert primary.sql("show work_mem") == [["5MB"]]
    assert primary.sql("show data_checksums") == [["off"]]
    primary.enable_checksums(True)
    assert primary.sql("show data_checksums") == [["on"]]
    with pytest.raises(LogshipError, match="has no PostgreSQL 18"):
        primary.upgrade_major(18)


def test_pauses_between_writers_count() -> None:
    one = Written(10, 0.5, 100.0, 110.0, begun_at=99.9, ended_at=110.2)
    none = Written(0, 2.0, None, None, begun_at=112.0, ended_at=114.0)
    later = Written(3, 0.1, 117.5, 118.0, begun_at=117.0, ended_at=118.1)
    assert longest_pause_seconds([]) == 0.0
    assert longest_pause_seconds([one]) == 0.5
    assert longest_pause_seconds([one, none]) == 4.0
    assert longest_pause_seconds([one, none, later]) == 7.5
    assert longest_pause_seconds([none, later]) == 5.5
    assert longest_pause_seconds([none]) == 2.0

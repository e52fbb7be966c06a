"""What is known of a primary's surroundings, what is asked again, and how much is told."""

from __future__ import annotations

import os

import msgspec
import pytest

from logship.environment import CollationFacts, DatabaseFacts, Environment, ExtensionFacts
from shipper.sources.environment.catalogs import (
    ClusterFacts,
    Inside,
    ListedDatabase,
    cluster_sql,
    read_inside,
)
from shipper.sources.environment.host import ELSEWHERE, HostSoftware, host_software
from shipper.sources.environment.memory import (
    CLUSTER_SECONDS,
    DATABASES_SECONDS,
    REFUSED_SECONDS,
    EnvironmentMemory,
    bounded,
)

HSTORE = ExtensionFacts(name="hstore", version="1.8", libraries=("$libdir/hstore",))
INSIDE = Inside(collations=(), extensions=(HSTORE,))


def listed(name: str, *, is_template: bool = False) -> ListedDatabase:
    return ListedDatabase(
        name=name,
        is_template=is_template,
        encoding="UTF8",
        provider="c",
        collate="de_DE.UTF-8",
        ctype="de_DE.UTF-8",
        recorded_version="2.36",
        actual_version="2.36",
    )


CLUSTER = ClusterFacts(
    databases=(listed("crm"), listed("orders"), listed("template1", is_template=True)),
    database_count=3,
    tablespaces=(),
    preload_libraries='pg_stat_statements, "auto_explain"',
    resource_managers=(),
    libc_version="2.36",
    version="PostgreSQL 17.9 on x86_64-pc-linux-gnu, compiled by gcc",
)


def cluster_with(**changes: object) -> ClusterFacts:
    return msgspec.structs.replace(CLUSTER, **changes)


@pytest.fixture
def memory() -> EnvironmentMemory:
    """Of a server that told all there is at 0."""
    made = EnvironmentMemory()
    made.take_cluster(CLUSTER, 0.0)
    for name in made.databases_due(0.0):
        made.take_inside(name, INSIDE, 0.0)
    return made


def test_nothing_is_known_before_anything_was_asked() -> None:
    memory = EnvironmentMemory()
    assert memory.cluster_due(0.0)
    assert not memory.knows_databases
    assert memory.environment() == Environment(is_complete=False, unread=("the system catalogs",))


def test_all_that_was_read_is_told(memory: EnvironmentMemory) -> None:
    memory.take_host(HostSoftware("Debian 12", "glibc 2.36", "72"))
    told = memory.environment()
    assert (told.is_complete, told.unread) == (True, ())
    assert (told.operating_system, told.libc, told.icu) == ("Debian 12", "glibc 2.36", "72")
    assert told.preload_libraries == ("pg_stat_statements", "auto_explain")
    assert [database.name for database in told.databases] == ["crm", "orders", "template1"]
    assert [len(database.extensions) for database in told.databases] == [1, 1, 0]


def test_the_cluster_is_asked_often_and_databases_rarely(memory: EnvironmentMemory) -> None:
    assert not memory.cluster_due(CLUSTER_SECONDS - 1)
    assert memory.cluster_due(CLUSTER_SECONDS)
    assert memory.databases_due(DATABASES_SECONDS - 1) == []
    assert memory.databases_due(DATABASES_SECONDS) == ["crm", "orders"]


def test_a_new_connection_asks_the_cluster_at_once(memory: EnvironmentMemory) -> None:
    memory.connected_anew()
    assert memory.cluster_due(1.0)
    assert memory.knows_databases


@pytest.mark.parametrize(
    "changed",
    [
        cluster_with(preload_libraries="pg_cron"),
        cluster_with(databases=(*CLUSTER.databases, listed("new")), database_count=4),
        cluster_with(resource_managers=((128, "own"),)),
    ],
)
def test_a_change_of_the_cluster_makes_every_database_due(
    memory: EnvironmentMemory, changed: ClusterFacts
) -> None:
    memory.take_cluster(changed, 30.0)
    assert set(memory.databases_due(30.0)) >= {"crm", "orders"}
    # What was known of them is told meanwhile.
    assert memory.environment().databases[0].extensions == (HSTORE,)


def test_a_database_that_was_dropped_is_forgotten(memory: EnvironmentMemory) -> None:
    gone = cluster_with(databases=CLUSTER.databases[1:], database_count=2)
    memory.take_cluster(gone, 30.0)
    assert [database.name for database in memory.environment().databases] == ["orders", "template1"]
    memory.take_cluster(CLUSTER, 60.0)
    assert memory.environment().unread == ("database crm",)


def test_a_database_that_refuses_is_named_and_left_alone_for_long(
    memory: EnvironmentMemory,
) -> None:
    memory.inside_refused("crm", 300.0)
    told = memory.environment()
    assert (told.is_complete, told.unread) == (False, ("database crm",))
    assert memory.databases_due(300.0 + DATABASES_SECONDS) == ["orders"]
    assert memory.databases_due(300.0 + REFUSED_SECONDS) == ["crm", "orders"]
    memory.take_inside("crm", INSIDE, 4000.0)
    assert memory.environment().is_complete


def test_a_database_that_does_not_answer_keeps_what_it_told(memory: EnvironmentMemory) -> None:
    memory.inside_unread("crm", 300.0)
    assert memory.environment().is_complete
    assert memory.databases_due(300.0) == ["orders"]


def test_a_setting_that_the_role_may_not_see_is_named() -> None:
    memory = EnvironmentMemory()
    memory.take_cluster(cluster_with(databases=(), database_count=2, preload_libraries=None), 0.0)
    assert memory.environment().unread == ("2 more databases", "shared_preload_libraries")


@pytest.mark.parametrize(
    ("version", "libc"),
    [
        ("PostgreSQL 17.9 on x86_64-pc-linux-gnu, compiled by gcc", "glibc 2.36"),
        ("PostgreSQL 17.9 on x86_64-pc-linux-musl, compiled by gcc", ""),
        ("PostgreSQL 17.9 on amd64-portbld-freebsd14.1, compiled by clang", ""),
    ],
)
def test_only_glibc_is_called_so(version: str, libc: str) -> None:
    assert cluster_with(version=version).libc == libc


def test_answers_are_sorted() -> None:
    def collation(name: str) -> dict[str, str]:
        return {
            "name": name,
            "provider": "i",
            "locale": "de",
            "recorded_version": "1",
            "actual_version": "1",
        }

    answer = {
        "collations": [collation("public.b"), collation("public.a")],
        "extensions": [{"name": "x", "version": "1", "libraries": ["$libdir/b", "$libdir/a"]}],
    }
    inside = read_inside(answer)
    assert [found.name for found in inside.collations] == ["public.a", "public.b"]
    assert isinstance(inside.collations[0], CollationFacts)
    assert inside.extensions[0].libraries == ("$libdir/a", "$libdir/b")


def test_14_is_asked_for_nothing_that_came_later() -> None:
    assert "pg_get_wal_resource_managers" not in cluster_sql(14)
    assert "pg_database_collation_actual_version" not in cluster_sql(14)
    assert "pg_get_wal_resource_managers" in cluster_sql(15)


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1], ids=["ours", "nobody's"])
def test_a_process_that_is_no_session_of_postgresql_tells_nothing(pid: int) -> None:
    """The server runs elsewhere, or in a container, where ids are other processes'."""
    assert host_software(pid, "logship") == ELSEWHERE


def test_no_more_is_told_than_fits_into_a_frame() -> None:
    many = tuple(
        listed(f"db{number:03}").facts(Inside(collations=(), extensions=(HSTORE,) * 20))
        for number in range(100)
    )
    whole = Environment(databases=many)
    size_bytes = len(msgspec.msgpack.encode(whole))
    assert bounded(whole, size_bytes) == whole
    told = bounded(whole, size_bytes // 2)
    assert len(msgspec.msgpack.encode(told)) < size_bytes // 2 + 200
    assert 40 < len(told.databases) < 60
    assert told.databases == many[: len(told.databases)]
    assert told.unread == (f"{100 - len(told.databases)} more databases, too much to tell",)
    assert not told.is_complete
    assert isinstance(told.databases[0], DatabaseFacts)

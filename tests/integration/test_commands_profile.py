"""`shipper profile` on a real primary: what its applier would be told."""

from __future__ import annotations

from pathlib import Path

from logship.errors import Code
from logship.profile_document import read_profile_document
from tests.conftest import PrimaryFactory
from tests.integration.command_runner import run
from tests.integration.test_commands_check import shipper_file
from tests.support.waiting import free_port

ICU = ("--encoding=UTF8", "--locale-provider=icu", "--icu-locale=de")


async def test_a_primary_is_told_with_all_that_surrounds_it(
    primary: PrimaryFactory, tmp_path: Path
) -> None:
    server = primary(17, initdb_args=ICU, settings={"max_connections": "77"})
    server.execute("create database second")
    server.execute("create extension hstore")
    server.execute('create table names (n text collate "sv-x-icu" primary key)')
    # Neither keys nor an applier are needed.
    file = shipper_file(tmp_path, server.dsn(), "tcp://127.0.0.1:1")
    outcome = await run("shipper", "profile", "--config", file, "--json")
    assert outcome.code == 0, outcome
    told = read_profile_document(outcome.document)
    system_identifier = outcome.document["system_identifier"]
    rows = server.execute("select system_identifier::text from pg_control_system()")
    assert rows[0][0] == system_identifier == str(told.system_identifier)
    assert (told.major, told.max_connections) == (17, 77)
    environment = told.environment
    assert environment is not None and environment.is_complete
    databases = {each.name: each for each in environment.databases}
    assert {"postgres", "second"} <= databases.keys()
    assert databases["postgres"].collate == "de"
    assert {each.name for each in databases["postgres"].collations} == {'"sv-x-icu"'}
    assert "hstore" in {each.name for each in databases["postgres"].extensions}

    shown = await run("shipper", "profile", "--config", file)
    assert shown.code == 0
    for words in (f"system identifier    {system_identifier}", "max_connections 77", "hstore 1."):
        assert words in shown.out

    nobody = shipper_file(tmp_path, f"host=127.0.0.1 port={free_port()}", "tcp://127.0.0.1:1")
    failed = await run("shipper", "profile", "--config", nobody, "--json")
    assert failed.code == 1
    assert failed.document["error"]["code"] == Code.PRIMARY_UNREACHABLE

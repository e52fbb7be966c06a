"""What an installation has and finds on this host, asked of real ones; and a look into servers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psycopg
import pytest

from applier.compat import LiveFacts
from applier.standby import StandbyLayout, surroundings
from applier.standby.inspection import inspect
from applier.standby.surroundings import Surroundings
from logship import host
from logship.environment import CollationFacts, DatabaseFacts, Environment
from logship.errors import Code, LogshipError
from logship.postgres.installations import Installation
from logship.postgres.run_as import RunAs
from tests.conftest import PrimaryFactory
from tests.support.installations import postgres_dir
from tests.support.servers import PrimaryServer

pytestmark = pytest.mark.integration

RUN_AS = RunAs.of(None)
HOSTILE = "de'); copy (select 1) to program 'false"


def environment(*icu_locales: str) -> Environment:
    used = tuple(
        CollationFacts(
            name=locale, provider="i", locale=locale, recorded_version="", actual_version=""
        )
        for locale in icu_locales
    )
    database = DatabaseFacts(
        name="app",
        encoding="UTF8",
        provider="c",
        collate="de_DE.utf8",
        ctype="de_DE.utf8",
        recorded_version="",
        actual_version="",
        collations=used,
    )
    return Environment(databases=(database,))


def scripts(directory: Path, major: int) -> Installation:
    """An installation whose programs are scripts that call the real ones."""
    directory.mkdir()
    real = postgres_dir(major)
    for name in ("postgres", "pg_ctl", "initdb"):
        script = directory / name
        script.write_text(f'#!/bin/sh\nexec {real / "bin"}/{name} "$@"\n')
        script.chmod(0o755)
    return Installation(directory, major * 10000 + int(real.name.split(".")[1]), "configured")


@pytest.mark.parametrize("major", [14, 15, 18])
async def test_the_host_is_asked_once_and_again_when_it_changed(
    shared_tmp_path: Path, major: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = scripts(shared_tmp_path / "bin", major)
    cache = shared_tmp_path / "cache"
    asked = environment("de", "de-u-co-phonebk", HOSTILE)
    profile, facts = await Surroundings(RUN_AS, cache).describe(installation, asked)
    assert profile.major == major
    assert facts is not None
    assert facts.libc == host.libc() and facts.operating_system == host.operating_system()
    assert facts.libraries is not None and {"hstore", "auto_explain"} <= facts.libraries
    assert facts.extensions is not None and len(facts.extensions["hstore"]) > 1
    assert facts.locales is not None and "C" in facts.locales
    assert facts.collation_version("c", "de_DE.utf8") == host.libc().removeprefix("glibc ")
    assert facts.collation_version("i", "de")
    assert facts.collation_version("i", "de-u-co-phonebk") not in (
        None,
        "",
        facts.collation_version("i", "de"),
    )
    assert facts.collation_version("i", HOSTILE) is None

    # From here on nothing can be asked any more.
    initdb = (shared_tmp_path / "bin" / "initdb").read_text()
    (shared_tmp_path / "bin" / "initdb").write_text("#!/bin/sh\nexit 1\n")
    again = Surroundings(RUN_AS, cache)
    assert await again.describe(installation, asked) == (profile, facts)
    fewer = (await again.describe(installation, environment("sv")))[1]
    assert fewer is not None
    assert [(one.provider, one.locale) for one in fewer.collation_versions] == [
        ("c", "de_DE.utf8"),
        ("i", "sv"),
    ]
    assert Path("/etc/os-release") in again.watched

    (kept,) = cache.glob("*-host.json")
    text = kept.read_text()
    start = text.index('"state":"') + len('"state":"')
    kept.write_text(text[:start] + "as it was" + text[text.index('"', start) :])
    changed = Surroundings(RUN_AS, cache)
    for _ in range(2):
        assert await changed.describe(installation, asked) == (profile, None), "no stale answer"
    monkeypatch.setattr(surroundings, "ASK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(shared_tmp_path / "missing"))
    assert await changed.describe(installation, asked) == (profile, None)
    with pytest.raises(LogshipError) as caught:
        await Surroundings(RUN_AS, shared_tmp_path / "empty").describe(installation, asked)
    assert caught.value.code is Code.NO_INSTALLATION
    monkeypatch.setattr(tempfile, "tempdir", None)
    (shared_tmp_path / "bin" / "initdb").write_text(initdb)
    assert await changed.describe(installation, asked) == (profile, facts), "it is asked again"
    (shared_tmp_path / "bin" / "postgres").unlink()
    with pytest.raises(LogshipError, match="is gone"):
        await again.describe(installation, asked)


async def test_what_can_t_be_asked_is_compared_as_far_as_it_is_known(
    shared_tmp_path: Path,
) -> None:
    installation = scripts(shared_tmp_path / "bin", 17)
    program = shared_tmp_path / "bin" / "postgres"
    # initdb finds the real one beside itself.
    program.write_text("#!/bin/sh\necho 'FATAL:  out of luck' >&2\nexit 1\n")
    asking = Surroundings(RUN_AS, shared_tmp_path / "cache")
    profile, facts = await asking.describe(installation, None)
    assert (profile.major, facts) == (17, None)
    (shared_tmp_path / "bin" / "initdb").write_text("#!/bin/sh\nexit 1\n")
    assert await asking.describe(installation, None) == (profile, None), "it is not repeated"


def layout_of(server: PrimaryServer) -> StandbyLayout:
    return StandbyLayout(server.directory, server.socket_directory)


@pytest.mark.parametrize("major", [14, 18])
async def test_a_look_finds_other_versions_and_libraries_that_do_not_load(
    primary: PrimaryFactory, major: int
) -> None:
    server = primary(major, settings={"fsync": "off"}, initdb_args=("--encoding=UTF8",))
    loaded: dict[str, str] = {}
    layout = layout_of(server)
    server.execute("create database shut")
    server.execute("create database plain template template0 encoding sql_ascii locale 'C'")
    server.execute('create table t (a text collate "de-x-icu", b text collate "sv-x-icu")')
    server.execute("create index on t (a)")
    server.execute("create extension hstore")
    server.execute("create extension citext")
    for may_load in (False, True):
        assert loaded == {}, "a promotion may begin while a look is under way"
        found = await inspect(
            layout, server.port, "postgres", loaded, may_load=lambda may=may_load: may
        )
        assert found == LiveFacts(databases=3)
    assert loaded == {"$libdir/citext": "", "$libdir/hstore": ""}

    with psycopg.connect(
        server.dsn("plain", client_encoding="sql_ascii"), autocommit=True
    ) as connection:
        connection.execute('create table t (a text collate "POSIX")')
        connection.execute(b'create index "ungl\xfcck" on t (a)')
        connection.execute("update pg_collation set collversion = '1.1' where collname = 'POSIX'")

    # Nothing is in the order of Swedish, and nothing of shut can be asked.
    server.execute("update pg_collation set collversion = '1.1' where collname ~ '^(de|sv)-x-icu'")
    server.execute("update pg_database set datconnlimit = -2 where datname = 'shut'")
    server.execute("update pg_proc set probin = '$libdir/nowhere' where probin ~ 'hstore'")
    server.execute("update pg_proc set probin = '/no/where.so' where probin ~ 'citext'")
    found = await inspect(layout, server.port, "postgres", loaded)
    (collation,) = found.collations
    assert (collation.database, collation.collation) == ("postgres", 'pg_catalog."de-x-icu"')
    assert (collation.recorded, collation.indexes) == ("1.1", ("public.t_a_idx",))
    assert collation.actual not in ("", "1.1")
    missing, absolute = found.libraries
    assert (absolute.library, absolute.why) == ("/no/where.so", "no such file")
    assert missing.library == "$libdir/nowhere" and "No such file" in missing.why
    assert found.databases == 1
    plain, shut = found.unread
    assert plain.startswith("plain (") and "UTF8" in plain, "a name there is no text"
    assert shut.startswith("shut (")
    assert (await inspect(layout, server.port, "postgres")).libraries == ()

    server.stop()
    with pytest.raises(LogshipError) as caught:
        await inspect(layout, server.port, "postgres")
    assert caught.value.retryable

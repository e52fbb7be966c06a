"""The version check on real servers: what is held, what is told, and what is done by itself."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import PrimaryFactory
from tests.support.installations import postgres_dir
from tests.support.pair import Pair
from tests.support.servers import PrimaryServer

pytestmark = pytest.mark.e2e

ICU = ("--encoding=UTF8", "--locale-provider=icu", "--icu-locale=de")
COUNT = "select count(*) from written"


def findings(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["rule"]: finding for finding in document["findings"]}


# --- text order ---------------------------------------------------------------------------------


def test_indexes_of_another_version_of_the_library_are_told_before_and_at_the_promotion(
    primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(17, initdb_args=ICU)
    server.execute('create table names (n text, s text collate "sv-x-icu")')
    server.execute("create index names_n on names (n)")
    server.execute("create index names_s on names (s)")
    server.execute("create extension hstore")
    pair.protect("main", server)
    # A standby that streams may still let nobody in, and can't be looked into then.
    pair.wait_on_standby("main", "select count(*) from pg_extension where extname = 'hstore'", 1)
    before = json.loads(pair.command("shipper", "compat", "main", "--json").stdout)
    assert findings(before)["standby-collations"]["outcome"] == "pass"
    assert findings(before)["standby-libraries"]["outcome"] == "pass"
    assert findings(before)["collation-versions"]["outcome"] == "pass"

    # As if the indexes had been built with other versions of ICU.
    server.execute("update pg_database set datcollversion = '1.1' where datname = 'postgres'")
    server.execute("update pg_collation set collversion = '2.2' where collname = 'sv-x-icu'")
    server.execute("create table done as select 1")
    pair.wait_on_standby("main", "select count(*) from done", 1)
    shown = pair.command("shipper", "compat", "main")
    assert shown.returncode == 0, shown
    assert "standby-collations" in shown.stdout and "REINDEX INDEX" in shown.stdout

    promoted = pair.command("shipper", "promote", "main", "--json")
    assert promoted.returncode == 0, promoted
    assert "check (found standby-collations" in promoted.stderr
    (warning,) = json.loads(promoted.stdout)["warnings"]
    assert "postgres/default 1.1" in warning and 'pg_catalog."sv-x-icu" 2.2' in warning
    assert pair.status("main")["promotion"]["warnings"] == [warning]
    # What it says to do mends it.
    for statement in (
        "REINDEX INDEX public.names_n",
        "ALTER DATABASE postgres REFRESH COLLATION VERSION",
        "REINDEX INDEX public.names_s",
        'ALTER COLLATION pg_catalog."sv-x-icu" REFRESH VERSION',
    ):
        assert statement in warning
        pair.standby_sql("main", statement)
    after = json.loads(pair.command("shipper", "compat", "main", "--json").stdout)
    assert findings(after)["standby-collations"]["outcome"] == "pass"


# --- libraries ----------------------------------------------------------------------------------


def copy_without(installation: Path, library: str, directory: Path) -> Path:
    """An installation that is not whole: links to another one, and to all but one library.
    Returns where the library would be."""
    for name in ("lib", "share"):
        shutil.copytree(installation / name, directory / name, symlinks=True)
    (directory / "bin").mkdir()
    for program in ("postgres", "pg_ctl", "initdb"):
        shutil.copy2(installation / "bin" / program, directory / "bin")
    missing = directory / "lib" / "postgresql" / f"{library}.so"
    missing.unlink()
    return missing


def test_a_missing_preload_library_holds_the_standby_until_it_is_installed(
    primary: PrimaryFactory, pair: Pair, shared_tmp_path: Path
) -> None:
    whole = postgres_dir(17)
    ours = shared_tmp_path / "installed" / "17"
    ours.mkdir(parents=True)
    missing = copy_without(whole, "auto_explain", ours)
    server = primary(17, settings={"shared_preload_libraries": "auto_explain"})
    server.execute("create table written as select 1")
    pair.add("main")
    text = pair.applier.settings.read_text()
    start = text.index("installations = [")
    text = text[:start] + text[text.index("\n", start) + 1 :]
    settings = f'installations = ["{ours}"]\nlook_seconds = 0.5\n'
    pair.applier.settings.write_text(text.replace("[postgres]\n", f"[postgres]\n{settings}"))
    pair.applier.start()
    pair.shipper("main", server.dsn()).start()

    blocked = pair.wait_status(
        "main",
        lambda s: s["phase"] == "blocked" and s["store"]["durable"],
        "it is seeded and blocked",
    )
    assert blocked["standby"]["state"] is None, "it was never started"
    assert [alarm["code"] for alarm in blocked["alarms"]] == ["compatibility"]
    shown = pair.command("shipper", "compat", "main", "--json")
    assert shown.returncode == 3
    finding = findings(json.loads(shown.stdout))["preload-libraries"]
    assert finding["outcome"] == "block"
    assert finding["remedy"].startswith("install auto_explain for PostgreSQL 17")

    # Nothing else is done than to install it.
    shutil.copy2(whole / "lib" / "postgresql" / "auto_explain.so", missing)
    pair.wait_following("main")
    pair.wait_on_standby("main", COUNT, 1)
    assert pair.status("main")["alarms"] == []
    other = pair.command("shipper", "compat", "main", "--against", "18", "--json")
    assert other.returncode == 3, "it would be of another major"
    assert findings(json.loads(other.stdout))["major"]["outcome"] == "block"

    # What the primary would be is judged before it is.
    told = pair.command("shipper", "profile", "--config", pair.shippers["main"].settings, "--json")
    assert told.returncode == 0, told
    profile = json.loads(told.stdout)
    assert profile["environment"]["preload_libraries"] == ["auto_explain"]
    file = shared_tmp_path / "primary.json"
    for libraries, code in ((["auto_explain"], 0), (["auto_explain", "pg_absent"], 3)):
        profile["environment"]["preload_libraries"] = libraries
        file.write_text(json.dumps(profile))
        planned = pair.command("shipper", "compat", "main", "--primary", file, "--json")
        assert planned.returncode == code, planned
    document = json.loads(planned.stdout)
    assert (document["given"], document["refused"]) == (True, None)
    assert "install pg_absent" in findings(document)["preload-libraries"]["remedy"]
    assert pair.status("main")["alarms"] == []


# --- parameters ---------------------------------------------------------------------------------


class Writers:
    """Clients that write all the time, and connect again when the server went away."""

    def __init__(self, server: PrimaryServer, count: int) -> None:
        self._server = server
        self._stop = threading.Event()
        self.acknowledged = [0] * count
        self._threads = [
            threading.Thread(target=self._write, args=(number,)) for number in range(count)
        ]

    def _write(self, number: int) -> None:
        while not self._stop.is_set():
            with (
                contextlib.suppress(psycopg.OperationalError),
                psycopg.connect(self._server.dsn(), autocommit=True) as connection,
            ):
                while not self._stop.is_set():
                    connection.execute("insert into written select repeat('x', 200)")
                    self.acknowledged[number] += 1

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


def test_a_parameter_that_is_raised_under_load_is_followed_without_a_hand(
    primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(18)
    server.execute("create table written (v text)")
    pair.protect("main", server)
    pid = pair.standby_pid("main")
    writers = Writers(server, 4)
    with writers.writing():
        pair.wait_status("main", lambda s: s["store"]["durable"], "something is stored")
        before = sum(writers.acknowledged)
        server.configure({"max_connections": "333", "max_locks_per_transaction": "99"})
        server.restart()
        pair.wait_on_standby("main", "show max_connections", "333")
        restarted = sum(writers.acknowledged)
        pair.wait_on_standby("main", f"select count(*) > {restarted} from written", True)
    assert before < restarted < sum(writers.acknowledged), "they wrote all the time"
    assert pair.standby_pid("main") != pid
    pair.wait_on_standby("main", COUNT, server.execute(COUNT)[0][0])
    assert sum(writers.acknowledged) <= server.execute(COUNT)[0][0]
    status = pair.wait_following("main")
    assert status["alarms"] == []
    compat = findings(json.loads(pair.command("shipper", "compat", "main", "--json").stdout))
    assert compat["parameter-floors"]["outcome"] == "pass"
    assert "max_connections 333" in compat["parameter-floors"]["primary"]

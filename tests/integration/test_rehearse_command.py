"""`shipper rehearse` as a process: its files, and that nothing stays, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from xml.etree import ElementTree

import pytest

from logship.rehearsal.engine.local import CACHE_VARIABLE
from tests.integration.command_runner import start
from tests.support.installations import cache_directory, postgres_dir
from tests.support.processes import processes_below
from tests.support.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

TIMEOUT_SECONDS = 500

DUMP = """
CREATE TABLE public.orders (id integer PRIMARY KEY, note text);
COPY public.orders (id, note) FROM stdin;
1\tfirst
\\.
"""
GENERATED_TABLES = 6
"""That hold rows, and the materialised view."""

PLAN = """
name = "As far as it goes"
[start]
primary = "{old}"
[database]
rows = 300
schema = "dump.sql"
[[steps]]
side = "standby"
image = "{new}"
[[steps]]
side = "primary"
image = "99.1"
[[steps]]
side = "primary"
parameters = {{ work_mem = "8MB" }}
"""


async def begin(place: Path, *arguments: str | Path) -> asyncio.subprocess.Process:
    """A rehearsal on this host, whose temporary files are all in `place`."""
    environment = {"TMPDIR": str(place), CACHE_VARIABLE: str(cache_directory())}
    return await start(
        "shipper", "rehearse", "--engine", "local", *arguments, environment=environment
    )


async def is_clean(place: Path) -> None:
    assert list(place.iterdir()) == []
    # The children of a server that was killed take a moment to notice.
    await until(lambda: not processes_below(place), "no process is left", 60)


async def test_the_report_comes_in_every_form(shared_tmp_path: Path, tmp_path: Path) -> None:
    plan, page, junit = (tmp_path / name for name in ("plan.toml", "page.html", "junit.xml"))
    plan.write_text(f'name = "As it is"\n[start]\nprimary = "{postgres_dir(17)}"\n')
    rehearsal = await begin(shared_tmp_path, plan, "--json", "--html", page, "--junit", junit)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        out, err = await rehearsal.communicate()
    assert rehearsal.returncode == 0, err.decode()
    document = json.loads(out)
    assert document["protected"]
    assert document["name"] == "As it is"
    (before,) = document["steps"]
    assert {each["result"] for each in before["observations"]} == {"passed"}
    assert "before the first step" in err.decode()
    assert "Protection would survive" in page.read_text()
    suite = ElementTree.fromstring(junit.read_text())
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("7", "0", "0")
    await is_clean(shared_tmp_path)


async def test_what_can_not_be_is_said_before_it_takes_minutes(
    shared_tmp_path: Path, tmp_path: Path
) -> None:
    dump = tmp_path / "dump.sql"
    dump.write_text("create table a ();\nalter table a owner to shopkeeper;\n")
    rehearsal = await begin(
        shared_tmp_path, "--from", str(postgres_dir(17)), "--to", "17.99", "--schema", dump
    )
    async with asyncio.timeout(TIMEOUT_SECONDS):
        out, err = await rehearsal.communicate()
    assert (rehearsal.returncode, out) == (1, b"")
    said = err.decode()
    ahead, _, built = said.partition("building:")
    assert "step 1 (standby: image 17.99) will not be made: this host has no PostgreSQL" in ahead
    assert f"the schema {dump} can't be loaded: " in built
    assert 'role "shopkeeper" does not exist' in built
    assert "--no-owner" in built
    await is_clean(shared_tmp_path)


async def test_a_step_that_can_not_be_made_ends_it_with_3(
    shared_tmp_path: Path, tmp_path: Path
) -> None:
    """What comes before it is made, on a database with the schema of a dump."""
    (tmp_path / "dump.sql").write_text(DUMP)
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.format(old=postgres_dir(17, 7), new=postgres_dir(17)))
    rehearsal = await begin(shared_tmp_path, plan, "--json")
    async with asyncio.timeout(TIMEOUT_SECONDS):
        out, err = await rehearsal.communicate()
    assert rehearsal.returncode == 3, err.decode()
    ahead, _, _ = err.decode().partition("building:")
    assert "step 2 (primary: image 99.1) will not be made: this host has no PostgreSQL" in ahead
    document = json.loads(out)
    assert not document["protected"]
    assert document["summary"].startswith("not shown whether protection would survive: 2 of 3")
    before, made, lacking, after = document["steps"]
    for step in (before, made):
        assert step["state"] == "protected"
        (contents,) = (each for each in step["observations"] if each["proof"] == "contents")
        expected = f"{GENERATED_TABLES + 1} tables are equal, sequences go on (1)"
        assert contents["said"] == expected
    assert made["outage"]["standby_seconds"] > 0
    assert lacking["state"] == after["state"] == "not run"
    assert "this host has no PostgreSQL 99.1" in lacking["not_run"]
    assert after["not_run"] == "a step before it could not be made"
    assert lacking["observations"] == after["observations"] == []
    await is_clean(shared_tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_nothing_stays_when_it_is_ended_from_outside(
    shared_tmp_path: Path, number: signal.Signals, code: int
) -> None:
    rehearsal = await begin(
        shared_tmp_path, "--from", str(postgres_dir(17)), "--set-standby", "work_mem=8MB"
    )
    try:
        await until(
            lambda: list(shared_tmp_path.rglob("postmaster.pid")), "a server was started", 60
        )
        rehearsal.send_signal(number)
        # Twice: who ends a process by hand does so again when it takes its time.
        assert rehearsal.stderr is not None
        async with asyncio.timeout(TIMEOUT_SECONDS):
            async for line in rehearsal.stderr:
                if b"removing all" in line:
                    break
            else:
                raise AssertionError("it never said that it removes what it made")
            with contextlib.suppress(ProcessLookupError):  # it may be done
                rehearsal.send_signal(number)
            out, err = await rehearsal.communicate()
    finally:
        if rehearsal.returncode is None:
            rehearsal.kill()
    assert (rehearsal.returncode, out, err) == (code, b"", b"")
    await is_clean(shared_tmp_path)

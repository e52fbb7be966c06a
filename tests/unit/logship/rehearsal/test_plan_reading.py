"""A plan's file as values, and everything that can be wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from logship.rehearsal.plan import Database, Kind, Side, Start, Step
from logship.rehearsal.plan.reading import load_plan, parse_plan
from logship.settings import Finding, SettingsError

FILE = Path("/plans/upgrade.toml")

START = '[start]\nprimary = "pg:16.9"\n'


def findings(text: str, file: Path = FILE) -> tuple[Finding, ...]:
    with pytest.raises(SettingsError) as caught:
        parse_plan(text, file=file)
    assert caught.value.exit_code == 2
    return caught.value.findings


def test_a_whole_plan(tmp_path: Path) -> None:
    (tmp_path / "pgvector.sql").write_text("CREATE EXTENSION vector;\n")
    (tmp_path / "schema.sql").write_text("CREATE TABLE a (b int);\n")
    for name in ("logship", "shipper", "applier"):
        (tmp_path / "old" / name).mkdir(parents=True)
    file = tmp_path / "plan.toml"
    file.write_text(
        """
        name = "All kinds"
        notes = ["as production is"]
        [start]
        primary = "pg:16.9"
        standby = "./local/16.14"
        shipper = "old"
        standby_parameters = { work_mem = "64MB" }
        [database]
        rows = 10
        schema = "schema.sql"
        locale = "de_DE.UTF-8"
        initdb = ["--wal-segsize=1"]
        [database.parameters]
        max_connections = 200
        jit = false
        "pg_stat_statements.track" = "all"
        [[steps]]
        side = "standby"
        image = "pg:16.14"
        [[steps]]
        side = "primary"
        image = "pg:17+16"
        [[steps]]
        major = 17
        [[steps]]
        major = 18
        image = "pg:18+17"
        [[steps]]
        side = "primary"
        restart = false
        parameters = { random_page_cost = 1.1 }
        [[steps]]
        sql = "CREATE EXTENSION hstore"
        [[steps]]
        sql_file = "pgvector.sql"
        database = "app"
        [[steps]]
        checksums = true
        [[steps]]
        side = "primary"
        logship = "current"
        """
    )
    plan = load_plan(file)
    assert (plan.name, plan.notes) == ("All kinds", ("as production is",))
    assert plan.start == Start(
        "pg:16.9",
        str(tmp_path / "local/16.14"),
        shipper=str(tmp_path / "old"),
        standby_parameters={"work_mem": "64MB"},
    )
    assert plan.database == Database(
        rows=10,
        schema=tmp_path / "schema.sql",
        locale="de_DE.UTF-8",
        initdb=("--wal-segsize=1",),
        parameters={"max_connections": "200", "jit": "off", "pg_stat_statements.track": "all"},
    )
    assert plan.steps == (
        Step(Kind.IMAGE, Side.STANDBY, to="pg:16.14"),
        Step(Kind.IMAGE, Side.PRIMARY, to="pg:17+16"),
        Step(Kind.MAJOR, Side.PRIMARY, to="pg:17+16", to_major=17),
        Step(Kind.MAJOR, Side.PRIMARY, to="pg:18+17", to_major=18),
        Step(Kind.PARAMETERS, Side.PRIMARY, parameters={"random_page_cost": "1.1"}, restart=False),
        Step(Kind.SQL, Side.PRIMARY, sql="CREATE EXTENSION hstore"),
        Step(Kind.SQL, Side.PRIMARY, sql="CREATE EXTENSION vector;\n", database="app"),
        Step(Kind.CHECKSUMS, Side.PRIMARY, enable=True),
        Step(Kind.LOGSHIP, Side.PRIMARY, to="current"),
    )


def test_what_is_left_out_has_a_default() -> None:
    plan = parse_plan(START, file=FILE)
    assert plan.name == "upgrade"
    assert plan.start == Start("pg:16.9", "pg:16.9")
    assert plan.database == Database()
    assert plan.steps == ()


def test_all_that_is_wrong_is_said_at_once_with_its_line() -> None:
    text = """[start]
primry = "pg:16.9"
[database]
schema = "none.sql"
[[steps]]
side = "standby"
image = "pg:16.14"
[[steps]]
side = "replica"
imagee = "pg:16.14"
[steps.parameters]
"max connections" = 3
"""
    assert [(each.line, each.key) for each in findings(text)] == [
        (1, "start.primary"),
        (2, "start.primry"),
        (4, "database.schema"),
        (9, "steps.2.side"),
        (10, "steps.2.imagee"),
        (12, 'steps.2.parameters."max connections"'),
    ]
    hints = {each.key: each.hint for each in findings(text)}
    assert hints["start.primry"] == "did you mean 'primary'?"
    assert hints["steps.2.imagee"] == "did you mean 'image'?"


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ('[[steps]]\nside = "standby"', "changes nothing", "image, major"),
        (
            '[[steps]]\nside = "standby"\nimage = "a"\nchecksums = true',
            "several things: image, checksums",
            "a step of each",
        ),
        ('[[steps]]\nimage = "a"', "whose image", "side ="),
        ('[[steps]]\nside = "standby"\nmajor = 18', "made on the primary", "leave side out"),
        ("[[steps]]\nmajor = 18\nrestart = false", "parameters alone", "leave it out"),
        ('[[steps]]\nmajor = 18\ndatabase = "a"', "sql or sql_file alone", "leave it out"),
        ("[[steps]]\nmajor = 9", "from 14 to", ""),
        ('[[steps]]\nside = "primary"\nlogship = "gone"', "no Logship /plans/gone", "relative"),
        ('[[steps]]\nside = "primary"\nimage = ""', "the name of an image, not empty", ""),
        ('[[steps]]\nside = "primary"\nparameters = { a = "x\\ny" }', "line break", "one line"),
        ('[database]\ninstance = "main"\nlocale = "C.UTF-8"', "do not go together", "its own"),
        ('[database]\napplier_config = "/dev/null"', "no file", ""),
        ('[steps]\nside = "primary"', "must be a list of tables, not a table", ""),
    ],
)
def test_one_thing_that_is_wrong(text: str, what: str, hint: str) -> None:
    (finding,) = findings(START + text)
    assert what in finding.what
    assert hint in finding.hint
    assert finding.line > 2


def test_a_dump_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(b"PGDMP\1\16")
    (finding,) = findings(START + '[database]\nschema = "dump"', tmp_path / "plan.toml")
    assert "no dump in plain SQL" in finding.what
    assert "pg_dump" in finding.hint


def test_several_problems_point_to_the_page_of_plans() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_plan("a = 1\nb = 2", file=FILE)
    assert "rehearsals.md" in caught.value.hint


def test_a_plan_that_is_not_there_and_sql_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such plan"):
        load_plan(tmp_path / "none.toml")
    (tmp_path / "bad.sql").write_bytes(b"\xff")
    (finding,) = findings(START + '[[steps]]\nsql_file = "bad.sql"', tmp_path / "plan.toml")
    assert (finding.line, finding.key) == (4, "steps.1.sql_file")
    assert "UTF-8" in finding.what


def test_settings_of_the_environment_are_none_of_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The applier's image has some."""
    monkeypatch.setenv("LOGSHIP__STANDBY__STOP_WITH_APPLIER", "true")
    monkeypatch.setenv("LOGSHIP__START__STANDBY", "pg:1")
    file = tmp_path / "plan.toml"
    file.write_text(f"{START}[[steps]]\nmajor = 17\n")
    assert load_plan(file).start.standby == "pg:16.9"

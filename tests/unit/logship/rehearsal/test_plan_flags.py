"""Flags as a plan: the steps, their order and its reason, and what makes no plan."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from logship.errors import UsageError
from logship.rehearsal.plan import Kind, Side, Start, Step
from logship.rehearsal.plan.flags import Flags, assignments, plan_of_flags


def steps(**flags: Any) -> list[tuple[Kind, Side]]:
    return [(step.kind, step.side) for step in plan_of_flags(Flags(from_image="a", **flags)).steps]


def test_the_standby_is_first_and_the_reason_is_told() -> None:
    plan = plan_of_flags(Flags(from_image="pg:16.9", to_image="pg:16.14"))
    assert plan.start == Start("pg:16.9", "pg:16.9")
    assert plan.steps == (
        Step(Kind.IMAGE, Side.STANDBY, to="pg:16.14"),
        Step(Kind.IMAGE, Side.PRIMARY, to="pg:16.14"),
    )
    assert plan.name == "standby: image pg:16.14; primary: image pg:16.14"
    (note,) = plan.notes
    assert note.startswith("standby first: a newer minor may write WAL that an older one does not")


@pytest.mark.parametrize(
    ("order", "sides", "notes"),
    [
        ("primary-first", [Side.PRIMARY, Side.STANDBY], 1),
        ("standby", [Side.STANDBY], 0),
        ("primary", [Side.PRIMARY], 0),
    ],
)
def test_another_order_can_be_asked_for(order: str, sides: list[Side], notes: int) -> None:
    flags = Flags(from_image="a", to_image="b", order=order)
    assert [step.side for step in plan_of_flags(flags).steps] == sides
    assert len(plan_of_flags(flags).notes) == notes


def test_a_major_upgrade_prepares_the_recovery_server_first() -> None:
    plan = plan_of_flags(Flags(from_image="pg:17", to_image="pg:17+18", to_major=18))
    assert plan.steps == (
        Step(Kind.IMAGE, Side.STANDBY, to="pg:17+18"),
        Step(Kind.MAJOR, Side.PRIMARY, to="pg:17+18", to_major=18),
    )
    assert "can be promoted until" in plan.notes[0]
    (only,) = plan_of_flags(Flags(from_image="pg:17+18", to_major=18)).steps
    assert only == Step(Kind.MAJOR, Side.PRIMARY, to="pg:17+18", to_major=18)


def test_several_changes_come_in_one_order(tmp_path: Path) -> None:
    (tmp_path / "x.sql").write_text("CREATE EXTENSION hstore")
    for name in ("logship", "shipper", "applier"):
        (tmp_path / "next" / name).mkdir(parents=True)
    assert steps(
        to_image="b",
        set_primary={"work_mem": "1MB"},
        set_standby={"work_mem": "1MB"},
        sql=Path("x.sql"),
        checksums=False,
        shipper_to="next",
        applier_to="next",
        directory=tmp_path,
    ) == [
        (Kind.LOGSHIP, Side.STANDBY),
        (Kind.LOGSHIP, Side.PRIMARY),
        (Kind.IMAGE, Side.STANDBY),
        (Kind.IMAGE, Side.PRIMARY),
        (Kind.PARAMETERS, Side.STANDBY),
        (Kind.PARAMETERS, Side.PRIMARY),
        (Kind.SQL, Side.PRIMARY),
        (Kind.CHECKSUMS, Side.PRIMARY),
    ]


def test_statements_run_in_the_database_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.sql").write_text("ALTER EXTENSION hstore\n  UPDATE")
    flags = Flags(from_image="a", sql=Path("x.sql"), directory=tmp_path)
    (step,) = plan_of_flags(flags).steps
    assert (step.database, step.title) == ("postgres", "primary: ALTER EXTENSION hstore UPDATE")
    (step,) = plan_of_flags(replace(flags, sql_database="app")).steps
    assert (step.database, step.title) == (
        "app",
        "primary: in app: ALTER EXTENSION hstore UPDATE",
    )


def test_the_start_and_the_database(tmp_path: Path) -> None:
    (tmp_path / "schema.sql").write_text("create table a ();")
    with zipfile.ZipFile(tmp_path / "logship-0.0.9-py3-none-any.whl", "w") as wheel:
        for name in ("logship", "shipper", "applier"):
            wheel.writestr(f"{name}/__init__.py", "")
    plan = plan_of_flags(
        Flags(
            from_image="a",
            standby_image="./b",
            checksums=True,
            applier="logship-0.0.9-py3-none-any.whl",
            schema=Path("schema.sql"),
            locale="C.UTF-8",
            parameters={"max_connections": "50"},
            directory=tmp_path,
        )
    )
    assert plan.start.standby == str(tmp_path / "b")
    assert plan.start.applier == str(tmp_path / "logship-0.0.9-py3-none-any.whl")
    assert plan.database.schema == tmp_path / "schema.sql"
    assert plan.database.parameters == {"max_connections": "50"}


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({}, "change nothing"),
        ({"to_image": "b", "order": "both"}, "--order both is none of standby-first"),
        ({"to_major": 9}, "--to-major 9"),
        ({"to_major": 18, "order": "primary-first"}, "do not go together"),
        ({"to_image": "b", "schema": Path("none.sql")}, "--schema: there is no file"),
        ({"sql": Path("none.sql")}, "--sql: there is no file"),
        ({"to_image": "b", "sql_database": "app"}, "--sql-database is of use with --sql alone"),
        ({"shipper_to": "none"}, "--shipper-to: there is no Logship"),
        ({"applier_to": "."}, "--applier-to: .* is no Logship"),
        ({"to_image": "b", "instance": "main", "schema": Path("a")}, "do not go together"),
        ({"to_image": "b", "instance": "Main!"}, "Main!"),
        ({"to_image": "b", "instance": "main", "locale": "C.UTF-8"}, "do not go together"),
        ({"to_image": "b", "applier_config": Path("a")}, "--instance alone"),
        ({"to_image": "b", "rows": 0}, "--rows"),
        ({"to_image": "b", "patience_seconds": 0}, "--patience-seconds"),
        ({"set_primary": {"a b": "1"}}, "no such name"),
        ({"set_standby": {"a": "1\n2"}}, "line break"),
    ],
)
def test_flags_that_make_no_plan(tmp_path: Path, flags: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        plan_of_flags(Flags(from_image="a", directory=tmp_path, **flags))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b" \n", "is empty"),
        (b"PGDMP\1\16", "is no dump in plain SQL"),
        (b"a\0b", "is no dump in plain SQL"),
    ],
)
def test_what_is_no_dump_in_plain_sql(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "dump").write_bytes(content)
    with pytest.raises(UsageError, match=what) as refused:
        plan_of_flags(Flags(from_image="a", to_image="b", schema=Path("dump"), directory=tmp_path))
    assert "pg_dump" in refused.value.hint


def test_a_wheel_that_is_none_is_found_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "words.whl").write_text("no wheel")
    with pytest.raises(UsageError, match=r"--shipper-to: .*words\.whl is no Logship: neither"):
        plan_of_flags(Flags(from_image="a", shipper_to="words.whl", directory=tmp_path))
    with zipfile.ZipFile(tmp_path / "half.whl", "w") as wheel:
        wheel.writestr("logship/__init__.py", "")
    with pytest.raises(UsageError, match="it has no package shipper and no applier"):
        plan_of_flags(Flags(from_image="a", applier_to="half.whl", directory=tmp_path))


def test_assignments() -> None:
    words = ["a = 1", "b=x=y", "c="]
    assert assignments("--set-primary", words) == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(UsageError, match="--set-primary takes NAME=VALUE, not 'a'"):
        assignments("--set-primary", ["a"])

"""The keys of a plan's file, as sections of a settings file: docs/rehearsals.md explains them.

Values that are fine one by one and not together are found here too; what takes a look at more
than one table is `logship.rehearsal.plan.reading`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from logship.rehearsal.engine import CURRENT_LOGSHIP
from logship.rehearsal.plan import PATIENCE_SECONDS
from logship.settings import check_name
from logship.settings_schema import Contradiction, Section
from logship.wal import PAGE_MAGIC

MAJORS = tuple(sorted(PAGE_MAGIC))
DUMP_HINT = "make one with `pg_dump --schema-only --no-owner --no-privileges --no-tablespaces`"

_LOOKED_AT_BYTES = 1 << 16

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?")

Value = str | bool | int | float
"""Of a parameter of PostgreSQL; `parameter_text` has it as PostgreSQL reads it."""


def parameter_text(value: Value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def check_parameter(key: str, name: str) -> Iterator[tuple[str, str]]:
    """A `Check`: nothing if `name` may name a parameter of PostgreSQL."""
    if not _PARAMETER.fullmatch(name):
        yield f"{key}: a parameter of PostgreSQL has no such name", "for example max_connections"


def check_value(key: str, value: Value) -> Iterator[tuple[str, str]]:
    """A `Check` of one (name, value): PostgreSQL's files hold a value in one line."""
    text = parameter_text(value)
    if "\n" in text or "\0" in text:
        yield f"{key} has a line break or a zero byte in it", "write the value in one line"


def _check_parameter_entry(key: str, entry: tuple[str, Value]) -> Iterator[tuple[str, str]]:
    yield from check_value(key, entry[1])


def _check_file(key: str, file: Path) -> Iterator[tuple[str, str]]:
    if not file.is_file():
        yield f"{key}: there is no file {file}", "a relative path is one from the plan's directory"


def dump_fault(file: Path) -> str:
    """What is wrong with a dump in plain SQL, as far as its beginning shows; "" if nothing is."""
    try:
        with file.open("rb") as dump:
            begin = dump.read(_LOOKED_AT_BYTES)
    except OSError as error:
        return f"{file} can't be read: {error.strerror}"
    if not begin.strip():
        return f"{file} is empty"
    if b"\0" in begin or begin.startswith(b"PGDMP"):
        return f"{file} is no dump in plain SQL"
    return ""


def _check_dump(key: str, file: Path) -> Iterator[tuple[str, str]]:
    missing = list(_check_file(key, file))
    yield from missing
    if not missing and (fault := dump_fault(file)):
        yield f"{key}: {fault}", DUMP_HINT


Parameters = Annotated[
    dict[str, Value],
    Meta(
        extra={"check_name": check_parameter, "check_entry": _check_parameter_entry},
        description="Parameters of PostgreSQL.",
    ),
]
_IMAGE = Meta(min_length=1, extra={"shape": "the name of an image"})
_LOGSHIP = Meta(min_length=1, extra={"shape": f'"{CURRENT_LOGSHIP}", a wheel or a directory'})


class StartSection(Section, frozen=True, kw_only=True):
    """What there is before the first step."""

    primary: Annotated[str, _IMAGE]
    standby: Annotated[str | None, _IMAGE] = None
    shipper: Annotated[str, _LOGSHIP] = CURRENT_LOGSHIP
    applier: Annotated[str, _LOGSHIP] = CURRENT_LOGSHIP
    standby_parameters: Parameters = {}  # noqa: RUF012 - msgspec copies it


class DatabaseSection(Section, frozen=True, kw_only=True):
    """Where the rehearsed database comes from."""

    rows: Annotated[int, Meta(ge=1, le=10_000_000)] = 2000
    schema: Annotated[Path | None, Meta(extra={"check": _check_dump})] = None
    instance: Annotated[str, Meta(extra={"check": check_name})] = ""
    applier_config: Annotated[Path | None, Meta(extra={"check": _check_file})] = None
    locale: Annotated[str, Meta(min_length=1)] = "C"
    icu_locale: str = ""
    icu_index: bool = True
    initdb: list[str] = []  # noqa: RUF012
    parameters: Parameters = {}  # noqa: RUF012

    def contradictions(self) -> Iterator[Contradiction]:
        if self.instance and self.schema:
            hint = "name one of them: a copied instance has its own schema"
            yield Contradiction(("schema",), "schema and instance do not go together", hint)
        if self.instance and (self.locale != "C" or self.icu_locale or self.initdb):
            what = "locale, icu_locale and initdb do not go together with instance"
            yield Contradiction(("instance",), what, "a copied instance keeps its own")
        if self.applier_config and not self.instance:
            what = "applier_config is of use with instance alone"
            yield Contradiction(("applier_config",), what, "name the instance that is copied")


class StepSection(Section, frozen=True, kw_only=True):
    """One step: which side, and one change."""

    side: Literal["primary", "standby"] | None = None
    image: Annotated[str | None, _IMAGE] = None
    major: Annotated[int | None, Meta(ge=MAJORS[0], le=MAJORS[-1])] = None
    parameters: Parameters = {}  # noqa: RUF012
    restart: bool = True
    sql: str = ""
    database: str = ""
    sql_file: Annotated[Path | None, Meta(extra={"check": _check_file})] = None
    checksums: bool | None = None
    logship: Annotated[str | None, _LOGSHIP] = None

    @property
    def changes(self) -> list[str]:
        """The keys that say what is changed; `image` beside `major` is where it is found."""
        given = {
            "major": self.major is not None,
            "image": self.image is not None and self.major is None,
            "parameters": bool(self.parameters),
            "sql": bool(self.sql),
            "sql_file": self.sql_file is not None,
            "checksums": self.checksums is not None,
            "logship": self.logship is not None,
        }
        return [name for name, there in given.items() if there]

    def contradictions(self) -> Iterator[Contradiction]:
        changes = self.changes
        if not changes:
            hint = "give one of image, major, parameters, sql, sql_file, checksums, logship"
            yield Contradiction((), "this step changes nothing", hint)
        elif len(changes) > 1:
            what = f"this step changes several things: {', '.join(changes)}"
            yield Contradiction((), what, "make a step of each, in the order that is planned")
        elif changes[0] in ("image", "parameters", "logship") and self.side is None:
            what = f"this step does not say whose {changes[0]} it changes"
            yield Contradiction((), what, 'side = "primary" or side = "standby"')
        elif changes[0] not in ("image", "parameters", "logship") and self.side == "standby":
            what = f"a step with {changes[0]} is made on the primary: its standby gets it as WAL"
            yield Contradiction(("side",), what, 'leave side out, or say side = "primary"')
        if self.database and not (self.sql or self.sql_file):
            what = "database is of use with sql or sql_file alone"
            yield Contradiction(("database",), what, "leave it out")
        if not self.restart and not self.parameters:
            what = "restart is of use with parameters alone"
            yield Contradiction(("restart",), what, "leave it out")


class PlanSection(Section, frozen=True, kw_only=True):
    """The whole file."""

    name: str = ""
    notes: list[str] = []  # noqa: RUF012
    patience_seconds: Annotated[float, Meta(ge=1, le=86400)] = PATIENCE_SECONDS
    start: StartSection
    database: DatabaseSection = DatabaseSection()
    steps: list[StepSection] = []  # noqa: RUF012

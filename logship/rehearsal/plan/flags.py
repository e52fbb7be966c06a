"""The flags of `shipper rehearse`, made into a plan.

What several flags ask for is done in one order, which is the order in which they are written
down here: Logship, images, the major, parameters, SQL, checksums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from logship.errors import Code, UsageError
from logship.identity import check_instance_name
from logship.rehearsal.engine import CURRENT_LOGSHIP
from logship.rehearsal.plan import (
    FIRST_DATABASE,
    PATIENCE_SECONDS,
    Database,
    Kind,
    Plan,
    Side,
    Start,
    Step,
)
from logship.rehearsal.plan.reading import image_of, logship_fault, logship_of, read_sql
from logship.rehearsal.plan.schema import (
    DUMP_HINT,
    MAJORS,
    check_parameter,
    check_value,
    dump_fault,
)


class Order(StrEnum):
    """Which sides `--to` is for, and which comes first where both change."""

    STANDBY_FIRST = "standby-first"
    PRIMARY_FIRST = "primary-first"
    STANDBY = "standby"
    PRIMARY = "primary"

    @property
    def sides(self) -> tuple[Side, ...]:
        return {
            Order.STANDBY_FIRST: (Side.STANDBY, Side.PRIMARY),
            Order.PRIMARY_FIRST: (Side.PRIMARY, Side.STANDBY),
            Order.STANDBY: (Side.STANDBY,),
            Order.PRIMARY: (Side.PRIMARY,),
        }[self]


_REASON = (
    "a newer minor may write WAL that an older one does not know, so PostgreSQL asks that "
    "standbys are upgraded before their primary"
)
_NOTES = {
    Order.STANDBY_FIRST: f"standby first: {_REASON}",
    Order.PRIMARY_FIRST: f"primary first, as asked for: {_REASON}",
}
_MAJOR_NOTE = (
    "the standby's machine gets its new image first: the upgraded cluster is seeded to an "
    "installation of its major, and the old one can be promoted until its successor streams"
)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """As `shipper rehearse` takes them, and the fixture `rehearsal` of pytest as keywords.

    from_image: both machines at the start, but for primary_image and standby_image.
    parameters: of the primary from its start.  sql: a file of statements for the primary, which
    run in `sql_database`.
    Relative paths are taken from `directory`.
    """

    from_image: str
    to_image: str = ""
    order: str = Order.STANDBY_FIRST
    primary_image: str = ""
    standby_image: str = ""
    to_major: int | None = None
    set_primary: Mapping[str, str] = field(default_factory=dict)
    set_standby: Mapping[str, str] = field(default_factory=dict)
    sql: Path | None = None
    sql_database: str = ""
    checksums: bool | None = None
    shipper: str = CURRENT_LOGSHIP
    applier: str = CURRENT_LOGSHIP
    shipper_to: str = ""
    applier_to: str = ""
    rows: int = 2000
    schema: Path | None = None
    instance: str = ""
    applier_config: Path | None = None
    locale: str = "C"
    icu_locale: str = ""
    icu_index: bool = True
    parameters: Mapping[str, str] = field(default_factory=dict)
    patience_seconds: float = PATIENCE_SECONDS
    directory: Path = field(default_factory=Path.cwd)


def plan_of_flags(flags: Flags) -> Plan:
    """Raises UsageError for flags that make no plan."""
    _check(flags)
    directory = flags.directory
    start = Start(
        primary=image_of(flags.primary_image or flags.from_image, directory),
        standby=image_of(flags.standby_image or flags.from_image, directory),
        shipper=_logship("--shipper", flags.shipper, directory),
        applier=_logship("--applier", flags.applier, directory),
    )
    steps = tuple(_steps(flags, start))
    if not steps:
        raise _usage(
            "these flags change nothing",
            "--to names the image to go to; `shipper rehearse --help` shows what else can change",
        )
    database = Database(
        rows=flags.rows,
        schema=_schema(flags.schema, directory),
        instance=flags.instance,
        applier_settings=_file("--applier-config", flags.applier_config, directory),
        locale=flags.locale,
        icu_locale=flags.icu_locale,
        icu_index=flags.icu_index,
        parameters=dict(flags.parameters),
    )
    name = "; ".join(step.title for step in steps)
    return Plan(name, start, steps, database, tuple(_notes(flags)), flags.patience_seconds)


def assignments(flag: str, words: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` words as a mapping.  Raises UsageError."""
    found: dict[str, str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.strip():
            raise _usage(f"{flag} takes NAME=VALUE, not {word!r}", f"{flag} max_connections=200")
        found[name.strip()] = value.strip()
    return found


def _usage(what: str, hint: str = "") -> UsageError:
    return UsageError(Code.USAGE, what, hint)


def _check(flags: Flags) -> None:
    if flags.order not in list(Order):
        raise _usage(f"--order {flags.order} is none of {', '.join(Order)}")
    if flags.to_major is not None and flags.to_major not in MAJORS:
        raise _usage(f"--to-major {flags.to_major} is none of {', '.join(map(str, MAJORS))}")
    if flags.to_major is not None and flags.order != Order.STANDBY_FIRST:
        raise _usage(
            "--to-major and --order do not go together",
            "where an upgrade is to be tried in another order, write a plan: docs/rehearsals.md",
        )
    if flags.sql_database and flags.sql is None:
        raise _usage("--sql-database is of use with --sql alone")
    if not 1 <= flags.patience_seconds <= 86400:
        raise _usage("--patience-seconds must be from 1 to 86400")
    _check_database(flags)
    for flag, parameters in (
        ("--parameter", flags.parameters),
        ("--set-primary", flags.set_primary),
        ("--set-standby", flags.set_standby),
    ):
        for name, value in parameters.items():
            found = [*check_parameter(f"{flag} {name}", name), *check_value(flag, value)]
            for what, hint in found:
                raise _usage(what, hint)


def _check_database(flags: Flags) -> None:
    if flags.rows < 1:
        raise _usage("--rows must be at least 1")
    if flags.instance and flags.schema:
        raise _usage("--schema and --instance do not go together", "name one of them")
    if flags.instance and (flags.locale != "C" or flags.icu_locale):
        raise _usage("--locale and --instance do not go together", "a copy keeps its own")
    if flags.applier_config and not flags.instance:
        raise _usage("--applier-config is of use with --instance alone")
    if flags.instance:
        check_instance_name(flags.instance)


def _steps(flags: Flags, start: Start) -> Iterator[Step]:
    sides = Order(flags.order).sides
    both = sides if len(sides) == 2 else Order.STANDBY_FIRST.sides
    logships = {Side.PRIMARY: flags.shipper_to, Side.STANDBY: flags.applier_to}
    for side in both:
        if logships[side]:
            flag = "--shipper-to" if side is Side.PRIMARY else "--applier-to"
            yield Step(Kind.LOGSHIP, side, to=_logship(flag, logships[side], flags.directory))
    yield from _image_steps(flags, start, sides)
    parameters = {Side.PRIMARY: flags.set_primary, Side.STANDBY: flags.set_standby}
    for side in both:
        if parameters[side]:
            yield Step(Kind.PARAMETERS, side, parameters=dict(parameters[side]))
    if flags.sql is not None:
        file = _file("--sql", flags.sql, flags.directory)
        assert file is not None
        try:
            sql = read_sql(file)
        except ValueError as error:
            raise _usage(f"--sql: {error}") from None
        where = flags.sql_database or FIRST_DATABASE
        yield Step(Kind.SQL, Side.PRIMARY, sql=sql, database=where)
    if flags.checksums is not None:
        yield Step(Kind.CHECKSUMS, Side.PRIMARY, enable=flags.checksums)


def _image_steps(flags: Flags, start: Start, sides: Sequence[Side]) -> Iterator[Step]:
    to = image_of(flags.to_image, flags.directory) if flags.to_image else ""
    if flags.to_major is not None:
        if to:
            yield Step(Kind.IMAGE, Side.STANDBY, to=to)
        yield Step(Kind.MAJOR, Side.PRIMARY, to=to or start.primary, to_major=flags.to_major)
    elif to:
        for side in sides:
            yield Step(Kind.IMAGE, side, to=to)


def _notes(flags: Flags) -> Iterator[str]:
    if flags.to_major is not None and flags.to_image:
        yield _MAJOR_NOTE
    elif flags.to_image and flags.order in _NOTES:
        yield _NOTES[Order(flags.order)]


def _file(flag: str, file: Path | None, directory: Path) -> Path | None:
    if file is None:
        return None
    where = (directory / file.expanduser()).absolute()
    if not where.is_file():
        raise _usage(f"{flag}: there is no file {where}")
    return where


def _schema(file: Path | None, directory: Path) -> Path | None:
    where = _file("--schema", file, directory)
    if where is not None and (fault := dump_fault(where)):
        raise _usage(f"--schema: {fault}", DUMP_HINT)
    return where


def _logship(flag: str, name: str, directory: Path) -> str:
    where = logship_of(name, directory)
    if fault := logship_fault(where):
        raise _usage(f"{flag}: {fault}", "name a wheel, or a directory that holds its packages")
    return where

"""A plan's file, read into values.

It is read as a settings file is: everything that is wrong is said at once, each with its line,
its key and, for a mistyped name, the nearest known one.  Relative paths in it are taken from
its own directory.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from logship.rehearsal.engine import CURRENT_LOGSHIP, PACKAGES
from logship.rehearsal.plan import FIRST_DATABASE, Database, Kind, Plan, Side, Start, Step
from logship.rehearsal.plan.schema import (
    DatabaseSection,
    PlanSection,
    StepSection,
    Value,
    parameter_text,
)
from logship.settings import (
    MAX_SETTINGS_BYTES,
    Finding,
    SettingsError,
    line_of,
    load_settings,
    parse_settings,
)

_HINT = "docs/rehearsals.md has every key of a plan"


def load_plan(file: Path) -> Plan:
    """The plan in `file`, and what the files of SQL hold that it names.

    Raises SettingsError (exit 2) with everything that is wrong.
    """
    file = file.absolute()
    if not file.exists():
        finding = Finding(0, "", "there is no such plan", "docs/rehearsals.md shows what is in one")
        raise SettingsError(file, [finding])
    try:
        # What the environment sets is for a shipper or an applier, as in their images.
        section = load_settings(file, PlanSection, environment={})
        return _plan_of(section, file.read_text(encoding="utf-8"), file)
    except SettingsError as error:
        raise SettingsError(error.file, error.findings, _HINT) from None


def parse_plan(text: str, *, file: Path) -> Plan:
    """As load_plan, from text.  `file` names it in messages and anchors relative paths."""
    file = file.absolute()
    try:
        return _plan_of(parse_settings(text, PlanSection, file=file), text, file)
    except SettingsError as error:
        raise SettingsError(error.file, error.findings, _HINT) from None


def image_of(name: str, directory: Path) -> str:
    """An image as an engine takes it: `./`, `../`, `~` and `/` begin a directory of this host."""
    if name.startswith(("./", "../", "~", "/")) or name in (".", ".."):
        return str(_path(name, directory))
    return name


def logship_of(name: str, directory: Path) -> str:
    """A Logship as an engine takes it: CURRENT_LOGSHIP, or the absolute path of a wheel or a
    directory."""
    return name if name == CURRENT_LOGSHIP else str(_path(name, directory))


def logship_fault(path: str) -> str:
    """What is wrong with what `logship_of` returned; "" if it can be rehearsed."""
    where = Path(path)
    if path == CURRENT_LOGSHIP:
        return ""
    if not where.exists():
        return f"there is no Logship {path}"
    missing = [name for name in PACKAGES if name not in _packages_in(where)]
    if not missing:
        return ""
    if len(missing) < len(PACKAGES):
        return f"{path} is no Logship: it has no package {' and no '.join(missing)}"
    return f"{path} is no Logship: neither a wheel nor a directory that holds its packages"


def _packages_in(logship: Path) -> set[str]:
    """The directories at the top of a directory or a wheel."""
    try:
        if logship.is_dir():
            return {each.name for each in logship.iterdir() if each.is_dir()}
        with zipfile.ZipFile(logship) as wheel:
            return {name.partition("/")[0] for name in wheel.namelist() if "/" in name}
    except (OSError, zipfile.BadZipFile):
        return set()


def read_sql(file: Path) -> str:
    """The statements in a file.  Raises ValueError for what can't be one."""
    try:
        if file.stat().st_size > MAX_SETTINGS_BYTES:
            raise ValueError(f"{file} is larger than {MAX_SETTINGS_BYTES} bytes")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{file} can't be read: {error.strerror}") from error


def _path(name: str, directory: Path) -> Path:
    return (directory / Path(name).expanduser()).absolute()


def _plan_of(section: PlanSection, text: str, file: Path) -> Plan:
    start = Start(
        primary=image_of(section.start.primary, file.parent),
        standby=image_of(section.start.standby or section.start.primary, file.parent),
        shipper=logship_of(section.start.shipper, file.parent),
        applier=logship_of(section.start.applier, file.parent),
        standby_parameters=_texts(section.start.standby_parameters),
    )
    findings = [
        Finding(line_of(text, path), ".".join(path), fault, "a relative path is one from the file")
        for path, fault in _faults(section, start, file.parent)
    ]
    if findings:
        raise SettingsError(file, findings)
    return Plan(
        name=section.name or file.stem,
        start=start,
        steps=tuple(_steps_of(section.steps, start.primary, file.parent)),
        database=_database_of(section.database),
        notes=tuple(section.notes),
        patience_seconds=section.patience_seconds,
    )


def _faults(
    section: PlanSection, start: Start, directory: Path
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with the files that the plan names: the key's path, and what it is."""
    named: list[tuple[tuple[str, ...], str]] = [
        (("start", "shipper"), start.shipper),
        (("start", "applier"), start.applier),
    ]
    for number, step in enumerate(section.steps, start=1):
        if step.logship:
            named.append((("steps", str(number), "logship"), logship_of(step.logship, directory)))
        if step.sql_file is not None:
            try:
                read_sql(step.sql_file)
            except ValueError as error:
                yield ("steps", str(number), "sql_file"), str(error)
    for path, logship in named:
        if fault := logship_fault(logship):
            yield path, fault


def _database_of(section: DatabaseSection) -> Database:
    return Database(
        rows=section.rows,
        schema=section.schema,
        instance=section.instance,
        applier_settings=section.applier_config,
        locale=section.locale,
        icu_locale=section.icu_locale,
        icu_index=section.icu_index,
        initdb=tuple(section.initdb),
        parameters=_texts(section.parameters),
    )


def _steps_of(sections: list[StepSection], primary: str, directory: Path) -> Iterator[Step]:
    """The steps.  `pg_upgrade` runs in the image that its primary has by then, unless told."""
    for section in sections:
        step = _step_of(section, directory)
        if step.kind is Kind.MAJOR and not step.to:
            step = replace(step, to=primary)
        if step.kind in (Kind.IMAGE, Kind.MAJOR) and step.side is Side.PRIMARY:
            primary = step.to
        yield step


def _step_of(section: StepSection, directory: Path) -> Step:
    (change,) = section.changes
    side = Side(section.side or Side.PRIMARY)
    image = image_of(section.image, directory) if section.image else ""
    if change == "image":
        return Step(Kind.IMAGE, side, to=image)
    if change == "major":
        return Step(Kind.MAJOR, side, to=image, to_major=section.major or 0)
    if change == "parameters":
        parameters = _texts(section.parameters)
        return Step(Kind.PARAMETERS, side, parameters=parameters, restart=section.restart)
    if change == "checksums":
        return Step(Kind.CHECKSUMS, side, enable=bool(section.checksums))
    if change == "logship":
        return Step(Kind.LOGSHIP, side, to=logship_of(section.logship or "", directory))
    sql = read_sql(section.sql_file) if section.sql_file else section.sql
    return Step(Kind.SQL, side, sql=sql, database=section.database or FIRST_DATABASE)


def _texts(parameters: Mapping[str, Value]) -> dict[str, str]:
    return {name: parameter_text(value) for name, value in parameters.items()}

"""What is to be rehearsed, as values.

schema   the keys of a plan's TOML
reading  a plan's TOML into these, with an error that names the key for all that is wrong
flags    the command line's flags into these

The values are pure; the three read the files that are named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from logship.rehearsal.engine import CURRENT_LOGSHIP

PATIENCE_SECONDS = 180.0
"""A new seed counts too."""
FIRST_DATABASE = "postgres"
"""Where statements run that name no database."""


class Side(StrEnum):
    PRIMARY = "primary"
    STANDBY = "standby"


class Kind(StrEnum):
    """What a step changes.

    IMAGE: the machine's image: a minor of PostgreSQL, the operating system, packages.
    MAJOR: `pg_upgrade` of the primary, a new incarnation, a new seed, the cut-over.
    PARAMETERS: settings of the server on one side.
    SQL: statements on the primary (CREATE EXTENSION …).
    CHECKSUMS: data checksums of the primary, by pg_checksums.
    LOGSHIP: shipper (side PRIMARY) or applier (side STANDBY) of another version.
    """

    IMAGE = "image"
    MAJOR = "major"
    PARAMETERS = "parameters"
    SQL = "sql"
    CHECKSUMS = "checksums"
    LOGSHIP = "logship"


@dataclass(frozen=True)
class Step:
    """One change.  Which fields count depends on `kind`.

    to: IMAGE, MAJOR: the image; LOGSHIP: as `Engine.machine` takes it.
    to_major: MAJOR: the major to upgrade to.
    parameters: PARAMETERS: name to value.  restart: whether the server is restarted for them.
    sql: SQL: the statements.  database: where they run.
    enable: CHECKSUMS: on or off.
    """

    kind: Kind
    side: Side
    to: str = ""
    to_major: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)
    restart: bool = True
    sql: str = ""
    database: str = FIRST_DATABASE
    enable: bool = True

    @property
    def title(self) -> str:
        """For people: "standby: image postgres:16.14"."""
        what = {
            Kind.IMAGE: f"image {self.to}",
            Kind.MAJOR: f"pg_upgrade to {self.to_major} with {self.to}",
            Kind.PARAMETERS: ", ".join(
                f"{key} = {value}" for key, value in self.parameters.items()
            ),
            Kind.SQL: self._where + " ".join(self.sql.split())[:60],
            Kind.CHECKSUMS: f"data checksums {'on' if self.enable else 'off'}",
            Kind.LOGSHIP: f"Logship {self.to}",
        }[self.kind]
        return f"{self.side}: {what}"

    @property
    def _where(self) -> str:
        return "" if self.database == FIRST_DATABASE else f"in {self.database}: "


@dataclass(frozen=True)
class Database:
    """Where the rehearsed database comes from.  At most one of `schema` and `instance`.

    rows: of the generated tables, which are there in any case.
    schema: a dump in plain SQL.  instance: copied from what a recovery server keeps of it, by
    `applier restore` with `applier_settings`.
    locale, icu_locale: of the generated cluster.
    icu_index: whether the generated tables have an index in an order of ICU, where the server has
    ICU: one without it can't take over what has.
    initdb: further arguments.
    parameters: of the primary, from its start.
    """

    rows: int = 2000
    schema: Path | None = None
    instance: str = ""
    applier_settings: Path | None = None
    locale: str = "C"
    icu_locale: str = ""
    icu_index: bool = True
    initdb: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """What there is before the first step.  Images as `Engine.machine` takes them."""

    primary: str
    standby: str
    shipper: str = CURRENT_LOGSHIP
    applier: str = CURRENT_LOGSHIP
    standby_parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """notes: what is told before the steps: reasons for their order.  patience_seconds: how long a
    standby may take to follow again; what takes longer has failed."""

    name: str
    start: Start
    steps: tuple[Step, ...]
    database: Database = Database()
    notes: tuple[str, ...] = ()
    patience_seconds: float = PATIENCE_SECONDS

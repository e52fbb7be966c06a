"""The order of text: which collations the primary uses, and what the recovery server makes of them.

An index on text is only right as long as the library that compares it is.  Replay copies it
byte for byte, so nothing is wrong before the standby is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from applier.compat.case import BLOCK, PASS, WARN, Answer, Case, listed
from applier.compat.profiles import HostFacts
from logship.environment import DatabaseFacts, Environment

_ICU = "ICU"
_LIBRARIES = {"c": "libc", "i": _ICU, "b": "builtin"}
_PLAIN_NAME = re.compile(r"\A[a-z_][a-z0-9_]*\Z")
# PostgreSQL asks libc for no version of these (`get_collation_actual_version`).
_UNVERSIONED = re.compile(r"\A(C|POSIX|C\..*)?\Z", re.IGNORECASE)


class CollationUse(NamedTuple):
    """A collation by which a database orders text."""

    database: str
    collation: str
    """As SQL writes it; "": the database's default."""
    provider: str
    locale: str
    recorded_version: str
    actual_version: str

    @property
    def built_with(self) -> str:
        """The version that indexes were built with, as far as the primary knows."""
        return self.recorded_version or self.actual_version

    def __str__(self) -> str:
        name = self.collation or self.locale
        return f"{self.database}: {name} {_LIBRARIES.get(self.provider, '?')} {self.built_with}"


def used_collations(environment: Environment | None) -> frozenset[tuple[str, str]]:
    """(provider, locale) of all collations whose version a recovery server is to be asked for."""
    return frozenset((use.provider, use.locale) for use in _uses(environment) if _is_versioned(use))


def mending_statements(environment: Environment | None, host: HostFacts | None) -> tuple[str, ...]:
    """What a promoted server is to be given before clients write, in this order: SQL, each
    statement with the database it is for, as `orders: REINDEX DATABASE orders`.

    Empty: no collation is known to be of another version.
    """
    wrong = [use for use in _uses(environment) if _differs_here(use, host)]
    statements = []
    for database in sorted({use.database for use in wrong}):
        name = _quoted(database)
        statements.append(f"{database}: REINDEX DATABASE {name}")
        for use in wrong:
            if use.database == database and use.recorded_version:
                statements.append(f"{database}: {_refresh(use, name)}")
    return tuple(dict.fromkeys(statements))


def collation_versions(case: Case) -> Answer:
    """Warns: replay is right all the same, and a promoted server can be mended."""
    environment, host = case.primary.environment, case.standby.host
    uses = [use for use in _uses(environment) if _is_versioned(use)]
    there = [use for use in uses if _is_stale(use)]
    # A host that is as the primary's is now needs nothing else than the primary itself.
    here = [
        use
        for use in uses
        if _differs_here(use, host)
        and not (_is_stale(use) and _version_here(use, host) == use.actual_version)
    ]
    versions = {(use.provider, use.locale): _version_here(use, host) for use in uses}
    standby = listed(
        f"{_LIBRARIES.get(provider, '?')} {known}"
        for (provider, _), known in versions.items()
        if known
    )
    if not here and not there:
        libraries = (f"{_LIBRARIES.get(use.provider, '?')} {use.built_with}" for use in uses)
        return Answer(PASS, listed(libraries), standby)
    remedies = []
    if there:
        remedies.append(
            "on the primary, or on the standby once it was promoted: "
            + listed(f"REINDEX DATABASE {_quoted(use.database)}" for use in there)
            + ", then "
            + listed(_refresh(use, _quoted(use.database)) for use in there)
        )
    if here:
        remedies.append(
            "give the recovery server the primary's release of the operating system; or, after a "
            "promotion and before clients write: "
            + listed(f"REINDEX DATABASE {_quoted(use.database)}" for use in here)
        )
    return Answer(WARN, listed(map(str, {*here, *there})), standby, "; ".join(remedies))


def locales(case: Case) -> Answer:
    """Blocks: nobody could connect to such a database after a promotion."""
    needed = _needed_locales(case)
    primary = listed(needed)
    missing = tuple(name for name in needed if _is_missing(case, name))
    if missing:
        return Answer(
            BLOCK,
            primary,
            f"without {listed(missing)}",
            "; ".join(_locale_remedies(missing)),
            lacking=missing,
        )
    host = case.standby.host
    known = bool(needed) and host is not None and host.locales is not None
    return Answer(PASS, primary, "all of them" if known else "")


def _needed_locales(case: Case) -> list[str]:
    """Of libc, by name, and ICU as a whole; sorted."""
    environment = case.primary.environment
    databases = environment.databases if environment is not None else ()
    needed = {name for database in databases for name in _libc_locales(database)}
    if any(use.provider == "i" for use in _uses(environment)):
        needed.add(_ICU)
    if environment is None or not environment.tells_of_databases:
        needed.update(case.lacked)
    return sorted(needed)


def _is_missing(case: Case, name: str) -> bool:
    """Whether the host does not have it or, if that is not known, did not have it."""
    host = case.standby.host
    if host is not None and name == _ICU and host.icu is not None:
        return host.icu == ""
    if host is not None and name != _ICU and host.locales is not None:
        return _normal(name) not in {_normal(each) for each in host.locales}
    return name in case.lacked


def _locale_remedies(missing: Iterable[str]) -> Iterator[str]:
    of_libc = [name for name in missing if name != _ICU]
    if of_libc:
        yield (
            f"make {listed(of_libc)} on the recovery server (Debian, Ubuntu: add to "
            "/etc/locale.gen and run locale-gen; elsewhere: localedef), and the standby starts "
            "by itself"
        )
    if _ICU in missing:
        yield "install a PostgreSQL that was built with ICU on the recovery server"


def operating_system(case: Case) -> Answer:
    """Warns only where the versions of collations can't tell, so that one fault is told once."""
    environment, host = case.primary.environment, case.standby.host
    if environment is None or host is None:
        return Answer(PASS, "", "")
    primary = _software(environment.operating_system, environment.libc, environment.icu)
    standby = _software(host.operating_system, host.libc, host.icu or "")
    differing = {
        "c": _known_to_differ(environment.libc, host.libc),
        "i": _known_to_differ(environment.icu, host.icu or ""),
    }
    untold = [
        use
        for use in _uses(environment)
        if _is_versioned(use) and differing.get(use.provider) and not _version_here(use, host)
    ]
    if not untold:
        return Answer(PASS, primary, standby)
    return Answer(
        WARN,
        primary,
        standby,
        "give the recovery server the primary's release of the operating system; or, after a "
        "promotion and before clients write: "
        + listed(f"REINDEX DATABASE {_quoted(use.database)}" for use in untold),
    )


# --- what is used -----------------------------------------------------------------------------


def _uses(environment: Environment | None) -> Iterator[CollationUse]:
    for database in environment.databases if environment is not None else ():
        yield CollationUse(
            database.name,
            "",
            database.provider,
            database.collate,
            database.recorded_version,
            database.actual_version,
        )
        for found in database.collations:
            yield CollationUse(
                database.name,
                found.name,
                found.provider,
                found.locale,
                found.recorded_version,
                found.actual_version,
            )


def _is_versioned(use: CollationUse) -> bool:
    if use.provider == "c":
        return _UNVERSIONED.match(use.locale) is None
    return use.provider == "i"


def _version_here(use: CollationUse, host: HostFacts | None) -> str | None:
    return host.collation_version(use.provider, use.locale) if host is not None else None


def _differs_here(use: CollationUse, host: HostFacts | None) -> bool:
    here = _version_here(use, host)
    return bool(here and use.built_with and here != use.built_with)


def _is_stale(use: CollationUse) -> bool:
    """Whether the primary itself orders by another version than its indexes were built with."""
    recorded, actual = use.recorded_version, use.actual_version
    return bool(recorded and actual and recorded != actual)


def _refresh(use: CollationUse, database: str) -> str:
    if use.collation:
        return f"ALTER COLLATION {use.collation} REFRESH VERSION"
    return f"ALTER DATABASE {database} REFRESH COLLATION VERSION"


def _quoted(name: str) -> str:
    if _PLAIN_NAME.match(name):
        return name
    return '"' + name.replace('"', '""') + '"'


# --- what there is ----------------------------------------------------------------------------


def _libc_locales(database: DatabaseFacts) -> Iterator[str]:
    """Those without which nobody can connect (`CheckMyDatabase`), or a collation can't be used."""
    names = [database.ctype]
    if database.provider == "c":
        names.append(database.collate)
    names += [found.locale for found in database.collations if found.provider == "c"]
    for name in names:
        if name.upper() not in ("", "C", "POSIX"):
            yield name


def _normal(locale: str) -> str:
    """A locale's name as glibc compares it: `de_DE.UTF-8` is `de_DE.utf8`."""
    name, _, rest = locale.partition(".")
    codeset, at, modifier = rest.partition("@")
    return f"{name}.{re.sub('[^a-z0-9]', '', codeset.lower())}{at}{modifier}"


def _software(operating_system: str, libc: str, icu: str) -> str:
    return ", ".join(filter(None, (operating_system, libc, icu and f"ICU {icu}")))


def _known_to_differ(primary: str, standby: str) -> bool:
    return bool(primary and standby and primary != standby)

"""What surrounds one installation here: libraries, extensions, locales, versions of collations.

PostgreSQL itself is asked, in the single-user mode of a cluster that is thrown away: so the
answer is what a standby of this installation would find.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from applier.compat import CollationVersion, HostFacts
from logship import host
from logship.postgres.installations import Installation
from logship.postgres.run_as import RunAs
from logship.postgres.single_user import Rows, ask

LIBC, ICU = "c", "i"
"""As `pg_collation.collprovider` says."""

_COMMAND_TIMEOUT_SECONDS = 10
MOST_ASKED = 500
"""Locales of ICU; a primary that claims to use more is not believed the rest."""
_LOCALE = re.compile(r"\A[A-Za-z0-9_.@=;+-]{1,128}\Z")
"""What names a locale.  The primary's word for one is not put into a statement else."""
_ORDERING_LIBRARY = re.compile(r"/(libc\.|libc-|ld-musl|libicu)[^/]*\Z")
_GLIBC = "glibc "

_QUERIES: Final[Mapping[str, str]] = {
    "directories": "select name, setting from pg_config where name in ('PKGLIBDIR', 'SHAREDIR')",
    "files": (
        "select distinct substring(line from '/.*$') "
        "from regexp_split_to_table(pg_read_file('/proc/self/maps'), chr(10)) line "
        "where line like '%.so%'"
    ),
    "extensions": "select name, version from pg_available_extension_versions order by 1, 2",
    "collations": (
        # The column of the locale has another name in each of 14, 15 and 17.
        "select collname, collprovider, coalesce(to_jsonb(c) ->> 'colllocale', "
        "to_jsonb(c) ->> 'colliculocale', collcollate), pg_collation_actual_version(oid) "
        "from pg_collation c where collprovider <> 'd' and collencoding in (-1, 6)"
    ),
}
_ASKED = "logship_asked_"

Locale = tuple[str, str]
"""Provider and name."""


class Learnt(NamedTuple):
    """facts: without versions of collations.  versions: of every locale that PostgreSQL has a
    collation of, and of those asked for besides.  watched: files and directories that the
    answer depends on."""

    facts: HostFacts
    versions: dict[Locale, str]
    watched: tuple[Path, ...]


def versions_of(
    locales: Iterable[Locale], libc: str, known: Mapping[Locale, str]
) -> tuple[CollationVersion, ...]:
    """What is known of `locales`, sorted.  `known`: as PostgreSQL said it.  `libc`: of the host.

    The C library has one version for all its locales, with or without a collation of them
    (`get_collation_actual_version` in `src/backend/utils/adt/pg_locale*.c`).
    """
    versions = dict(known)
    if libc.startswith(_GLIBC):
        version = libc.removeprefix(_GLIBC)
        versions = {(LIBC, locale): version for provider, locale in locales if provider == LIBC}
        versions |= known
    return tuple(
        CollationVersion(provider=provider, locale=locale, version=versions[provider, locale])
        for provider, locale in sorted(locales)
        if (provider, locale) in versions
    )


async def learn(
    installation: Installation, data: Path, run_as: RunAs, asked: Iterable[str] = ()
) -> Learnt:
    """Ask `installation`, by the cluster in `data` that it made and whose server is down.

    asked: locales of ICU whose versions are wanted although PostgreSQL may have no collation
    of them.  Raises LogshipError(NO_INSTALLATION): it could not be asked anything.
    """
    locales = [locale for locale in sorted(asked) if _LOCALE.match(locale)][:MOST_ASKED]
    create = [
        f"create collation {_ASKED}{number} (provider = icu, locale = '{locale}')"
        for number, locale in enumerate(locales)
    ]
    answers = await ask(installation, data, run_as, _QUERIES, before=create)
    return await asyncio.to_thread(_put_together, installation, answers, locales)


def _put_together(
    installation: Installation, answers: Mapping[str, Rows], asked: list[str]
) -> Learnt:
    directories = {name: Path(setting) for name, setting in answers.get("directories", [])}
    pkglibdir, sharedir = directories.get("PKGLIBDIR"), directories.get("SHAREDIR")
    facts = HostFacts(
        operating_system=host.operating_system(),
        libc=_libc(),
        icu=host.icu_of(installation.bin_dir / "postgres"),
        libraries=_libraries(pkglibdir),
        extensions=_extensions(answers.get("extensions")),
        locales=_locales(),
    )
    files = [Path(path) for (path,) in answers.get("files", []) if _ORDERING_LIBRARY.search(path)]
    watched = [
        installation.bin_dir / "postgres",
        *([pkglibdir] if pkglibdir else []),
        *([sharedir / "extension"] if sharedir else []),
        *sorted(files),
        Path("/usr/lib/locale"),
        Path("/usr/lib/locale/locale-archive"),
        Path("/etc/os-release"),
    ]
    return Learnt(facts, _versions(answers.get("collations", []), asked), tuple(watched))


def _versions(rows: Rows, asked: list[str]) -> dict[Locale, str]:
    versions: dict[Locale, str] = {}
    for name, provider, locale, version in rows:
        if name.startswith(_ASKED):
            # PostgreSQL writes some locales otherwise than they were asked for.
            locale = asked[int(name.removeprefix(_ASKED))]
        if version or provider != ICU:  # without ICU it has no version of any
            versions[provider, locale] = version
    return versions


def _libraries(directory: Path | None) -> frozenset[str] | None:
    if directory is None:
        return None
    try:
        return frozenset(path.stem for path in directory.glob("*.so"))
    except OSError:
        return None


def _extensions(rows: Rows | None) -> dict[str, tuple[str, ...]] | None:
    if rows is None:
        return None
    found: dict[str, tuple[str, ...]] = {}
    for name, version in rows:
        found[name] = (*found.get(name, ()), version)
    return found


def _libc() -> str:
    """Of a process that starts now: ours may be older than the library on the disk is."""
    said = _output("getconf", "GNU_LIBC_VERSION")
    return said.strip() if said is not None and said.startswith(_GLIBC) else host.libc()


def _locales() -> frozenset[str] | None:
    said = _output("locale", "-a")
    return frozenset(said.split()) if said is not None else None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")

"""Where the PostgreSQL servers are that ``make postgres`` fetched."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

MAJORS = (14, 15, 16, 17, 18)

all_majors = pytest.mark.parametrize("major", MAJORS)
"""Runs a test once for each supported major, as its argument ``major``."""

ARCHIVING_MAJORS = (14, 15, 18)
"""14 archives by a command, 15 was the first with a library, and nothing of it changed since."""

_FETCH = Path(__file__).resolve().parents[2] / "ops" / "fetch-postgres"


@functools.cache
def cache_directory() -> Path:
    """The cache, by the rule of the script that fills it."""
    answer = subprocess.run(
        [sys.executable, _FETCH, "--print-dir"], capture_output=True, text=True, check=True
    )
    return Path(answer.stdout.strip())


def releases() -> dict[tuple[int, int], Path]:
    """Every fetched server by (major, minor), without the wheel's."""
    found = {}
    for directory in cache_directory().glob("[0-9]*.[0-9]*"):
        major, _, minor = directory.name.partition(".")
        if minor.isdigit() and (directory / "bin" / "postgres").exists():
            found[int(major), int(minor)] = directory
    return dict(sorted(found.items()))


def postgres_dir(major: int, minor: int | None = None) -> Path:
    """The installation of one release, of the newest minor unless one is named.

    It has ``bin`` with initdb, pg_ctl and postgres only; ``wheel_dir`` has every tool.
    """
    found = releases()
    wanted = [path for (m, n), path in found.items() if m == major and minor in (None, n)]
    if not wanted:
        raise LookupError(_missing(f"{major}" if minor is None else f"{major}.{minor}"))
    return wanted[-1]


def older_minor_dir(major: int) -> Path:
    """An installation of a minor older than ``postgres_dir(major)``; there is one of 16, 17."""
    wanted = [path for (m, _), path in releases().items() if m == major]
    if len(wanted) < 2:
        raise LookupError(_missing(f"{major} in an older minor"))
    return wanted[0]


def wheel_dir() -> Path:
    """PostgreSQL 18 with all client tools (pg_basebackup, pg_waldump, psql, ...)."""
    found = sorted(cache_directory().glob("*-wheel"))
    if not found:
        raise LookupError(_missing("18 from the wheel"))
    return found[-1]


def _missing(what: str) -> str:
    return f"PostgreSQL {what} is not in {cache_directory()}; run: make postgres"

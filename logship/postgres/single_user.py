"""Questions to a data directory whose server does not run: PostgreSQL's single-user mode.

No port, no socket, no second process: `postgres --single` reads statements, a line each, and
ends (`PostgresSingleUserMain` in `src/backend/tcop/postgres.c`).  Answers come by COPY into
files, because what it prints is made for people.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from logship.errors import Code, LogshipError
from logship.postgres.installations import Installation
from logship.postgres.probe import ended
from logship.postgres.run_as import RunAs

_TIMEOUT_SECONDS = 60

Rows = list[tuple[str, ...]]


async def ask(
    installation: Installation,
    data: Path,
    run_as: RunAs,
    queries: Mapping[str, str],
    *,
    before: Iterable[str] = (),
) -> dict[str, Rows]:
    """The rows of each of `queries`, by name, as text; null is "".

    before: statements to execute first.  A statement or query that fails is only missing in
    the answer, whatever the others do.  Nothing may hold a line break: it ends a statement,
    so text of others must have been checked for it.  Files named after the queries are made
    beside `data`, where the account of `run_as` must be able to write.

    Raises LogshipError(NO_INSTALLATION): it did not run, with its words.
    """
    place = data.parent
    statements = [*before, *(_copy(query, place / name) for name, query in queries.items())]
    await _run(installation, data, run_as, statements)
    return await asyncio.to_thread(_read, place, tuple(queries))


def _copy(query: str, path: Path) -> str:
    quoted = str(path).replace("'", "''")
    return f"copy ({query}) to '{quoted}' (format csv)"


def _read(place: Path, names: tuple[str, ...]) -> dict[str, Rows]:
    answers: dict[str, Rows] = {}
    for name in names:
        with contextlib.suppress(OSError):
            text = (place / name).read_text(encoding="utf-8", errors="replace")
            answers[name] = [tuple(row) for row in csv.reader(io.StringIO(text))]
    return answers


async def _run(
    installation: Installation, data: Path, run_as: RunAs, statements: Sequence[str]
) -> None:
    if any("\n" in statement or "\r" in statement for statement in statements):
        raise ValueError("a statement with a line break")
    process = await asyncio.create_subprocess_exec(
        installation.bin_dir / "postgres",
        *("--single", "-D", data, "-F", "-c", "search_path=public", "postgres"),
        cwd=data.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**run_as.environment(), "LC_ALL": "C"},
        **run_as.subprocess_arguments(),
    )
    given = "".join(f"{statement}\n" for statement in statements).encode()
    try:
        _, said = await ended(process, _TIMEOUT_SECONDS, given)
    except TimeoutError as error:
        raise _failed(installation, f"no end in {_TIMEOUT_SECONDS} s") from error
    if process.returncode != 0:
        lines = said.decode("utf-8", "replace").strip().splitlines()
        raise _failed(installation, "; ".join(lines[-3:]) or f"exit status {process.returncode}")


def _failed(installation: Installation, why: str) -> LogshipError:
    return LogshipError(
        Code.NO_INSTALLATION,
        f"PostgreSQL {installation.version} in {installation.bin_dir} can't be asked what it has: "
        f"{why}",
        "repair or remove this installation",
    )

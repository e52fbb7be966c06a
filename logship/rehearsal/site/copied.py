"""A copy of a real instance, from what a recovery server keeps of it.

`applier restore` makes it, beside whatever runs: nothing of the instance is touched, and what the
copy is made of stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from logship.errors import Code, LogshipError
from logship.postgres.process import stop_server
from logship.rehearsal.engine.left_behind import NotedDirectory
from logship.rehearsal.plan import Database

_APPLIER = """
import sys
sys.path[:0] = sys.argv.pop(1).split(":")
from applier.commands import main
raise SystemExit(main())
"""
_END_SECONDS = 60.0


@contextlib.contextmanager
def copy_of(database: Database) -> Iterator[Path | None]:
    """The data directory of the copy that a plan asks for, whose server is stopped; None if it
    asks for none.  It is removed afterwards.

    Raises LogshipError(REHEARSAL_FAILED): it can't be had.
    """
    if not database.instance:
        yield None
        return
    directory = NotedDirectory()
    data = directory.path / "restored" / "data"
    try:
        _restore(database, data.parent)
        stop_server(data)
        _check_tablespaces(database.instance, data)
        yield data
    finally:
        with contextlib.suppress(LogshipError):
            stop_server(data, "immediate")
        directory.remove()


def _restore(database: Database, into: Path) -> None:
    command: list[str | Path] = [
        # Ours: it works elsewhere, and may not find what was found from here.
        *(sys.executable, "-c", _APPLIER, ":".join(map(os.path.abspath, sys.path))),
        *("restore", database.instance, "--latest"),
        *("--into", into, "--port", str(_free_port()), "--listen", "", "--json"),
    ]
    if database.applier_settings is not None:
        command += ["--config", database.applier_settings.absolute()]
    # Where it works it is found by whoever removes what we leave if we are killed.
    process = subprocess.Popen(
        command,
        cwd=into.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate()
    finally:
        if process.poll() is None:
            _end(process)
    if process.returncode != 0:
        what, hint = _complaint(out, err)
        raise LogshipError(
            Code.REHEARSAL_FAILED, f"{database.instance} can't be copied: {what}", hint
        )


def _end(process: subprocess.Popen[str]) -> None:
    """The server that it may have started is known by its data directory."""
    process.terminate()
    try:
        process.communicate(timeout=_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _complaint(out: str, err: str) -> tuple[str, str]:
    """What it said was wrong, and its hint."""
    try:
        error: dict[str, Any] = json.loads(out)["error"]
        return str(error["what"]), str(error["hint"])
    except (ValueError, KeyError, TypeError):
        return err.strip()[-400:] or "`applier restore` did not say why", ""


def _check_tablespaces(instance: str, data: Path) -> None:
    if any((data / "pg_tblspc").iterdir()):
        raise LogshipError(
            Code.REHEARSAL_FAILED,
            f"{instance} has tablespaces, which are not copied",
            "rehearse with its schema: `pg_dump --schema-only --no-tablespaces`, and --schema",
        )


def _free_port() -> int:
    """The server listens on its socket alone, whose name has a port all the same."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

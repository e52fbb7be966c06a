"""Programs on a machine: those that must end well, and those that are asked and answer in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from logship.errors import Code, ExitCode, LogshipError, RefusedError
from logship.rehearsal.engine import RUN_SECONDS, Done, Machine

_SAID_CHARACTERS = 600
_COMPLAINT_CHARACTERS = 2000


def must_run(
    machine: Machine,
    command: Sequence[str | PurePosixPath],
    *,
    stdin: str = "",
    timeout_seconds: float = RUN_SECONDS,
) -> str:
    """What it printed.  Raises LogshipError: it did not end well."""
    done = machine.run(command, stdin=stdin, timeout_seconds=timeout_seconds)
    check_ended(machine, PurePosixPath(command[0]).name, done)
    return done.stdout


def check_ended(machine: Machine, what: str, done: Done) -> None:
    """Raises LogshipError with what it said unless it ended well."""
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-_COMPLAINT_CHARACTERS:] or "it said nothing"
        raise LogshipError(
            Code.REHEARSAL_FAILED,
            f"{what} ended with {done.returncode} on {machine.name}: {said}",
        )


def ask_tool(
    machine: Machine,
    module: str,
    document: Mapping[str, Any],
    *,
    timeout_seconds: float = RUN_SECONDS,
) -> dict[str, Any]:
    """The answer of a program of `logship.rehearsal.inside`.

    Raises LogshipError with its code, where it failed and what it said.
    """
    done = machine.run(
        machine.tool_command(module), stdin=json.dumps(document), timeout_seconds=timeout_seconds
    )
    return _answer(machine, module, done, (0,), where=f"{module} on {machine.name}: ")


def ask_logship(
    machine: Machine,
    program: str,
    arguments: Sequence[str | PurePosixPath],
    *,
    stdin: str = "",
    fine: Sequence[int] = (ExitCode.DONE,),
    timeout_seconds: float = RUN_SECONDS,
) -> dict[str, Any]:
    """The answer of a command of the Logship that is rehearsed there; `arguments` have `--json`.

    fine: exit codes with which it answered all the same.  Raises LogshipError, RefusedError
    where a check refused or settings were wrong.
    """
    done = machine.run(
        [*machine.logship_command(program), *arguments],
        stdin=stdin,
        timeout_seconds=timeout_seconds,
    )
    return _answer(machine, f"{program} {arguments[0]}", done, fine)


def _answer(
    machine: Machine, what: str, done: Done, fine: Sequence[int], *, where: str = ""
) -> dict[str, Any]:
    """where: is told before what an error says, which does not say it itself."""
    try:
        document = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        document = None
    if isinstance(document, dict):
        error = document.get("error")
        if isinstance(error, dict):
            raise _error_of(error, done.returncode, where)
        if done.returncode in fine:
            return document
    said = (done.stderr.strip() or done.stdout.strip() or "it said nothing")[-_SAID_CHARACTERS:]
    raise LogshipError(
        Code.REHEARSAL_FAILED, f"{what} on {machine.name} ended with {done.returncode}: {said}"
    )


def _error_of(error: Mapping[str, Any], returncode: int, where: str) -> LogshipError:
    what = f"{where}{error.get('what', '')}"
    try:
        code = Code(str(error.get("code")))
    except ValueError:
        # Another Logship may know other codes.
        what, code = f"{what} [{error.get('code')}]", Code.INTERNAL
    refused = returncode in (ExitCode.REFUSED, ExitCode.USAGE)
    kind = RefusedError if refused else LogshipError
    return kind(
        code, what, str(error.get("hint", "")), retryable=bool(error.get("retryable", False))
    )

"""What `check` commands find, and how they show it.

A check command looks at everything that would stop the process it is for and shows all of
it at once.  One finding is a `Check`; any `fail` makes the command exit 3.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from logship.commandline import print_json
from logship.errors import ExitCode, LogshipError
from logship.redaction import redact

Level = Literal["ok", "warn", "fail"]


class Check(NamedTuple):
    """name: short and stable, for scripts.  hint: the remedy, "" if `ok`."""

    name: str
    level: Level
    what: str
    hint: str = ""


def ok(name: str, what: str) -> Check:
    return Check(name, "ok", what)


def warn(name: str, what: str, hint: str) -> Check:
    return Check(name, "warn", what, hint)


def fail(name: str, what: str, hint: str) -> Check:
    return Check(name, "fail", what, hint)


def failed(name: str, error: LogshipError) -> Check:
    """A check that ended in `error`."""
    return Check(name, "fail", error.what, error.hint)


def show(checks: Sequence[Check], *, as_json: bool) -> ExitCode:
    """Print every check.  Returns what the command exits with: REFUSED if any failed."""
    counts = {level: sum(each.level == level for each in checks) for level in ("warn", "fail")}
    if as_json:
        findings = [
            {**each._asdict(), "what": redact(each.what), "hint": redact(each.hint)}
            for each in checks
        ]
        print_json({"ok": counts["fail"] == 0, **counts, "checks": findings})
    else:
        width = max((len(each.name) for each in checks), default=0)
        for each in checks:
            print(f"{each.level:<4}  {each.name:<{width}}  {redact(each.what)}")
            if each.hint and each.level != "ok":
                print(f"{'':<4}  {'':<{width}}  -> {redact(each.hint)}")
        print(f"\n{len(checks)} checks: {counts['fail']} failed, {counts['warn']} warnings")
    return ExitCode.REFUSED if counts["fail"] else ExitCode.DONE


def check_directory(name: str, directory: Path) -> Check:
    """That a directory can be written to, or can be made."""
    present = next(each for each in (directory, *directory.parents) if each.exists())
    if not present.is_dir():
        return fail(name, f"{present} is not a directory", "move it away, or choose another path")
    if not os.access(present, os.W_OK | os.X_OK):
        return fail(
            name,
            f"{present} can't be written to by this user",
            f"make {directory} and give it to the user who runs this",
        )
    return ok(name, f"{directory}" if present == directory else f"{directory} (will be made)")

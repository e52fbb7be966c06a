"""What the last drill of an instance showed: `drill.json` in the instance's directory.

`applier drill` writes it, a process of its own, with or without an applier beside it.  The
applier looks at the file whenever somebody asks for the status, and reads it when it is another.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import msgspec

from logship import durable
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.errors import Code, LogshipError
from logship.redaction import redact

FORMAT: Final = 1
_NAME: Final = "drill.json"
_MAX_BYTES: Final = 1 << 20


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """As the error that ended it: `logship.errors.LogshipError`."""

    code: str
    what: str
    hint: str


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """One recovery that was tried in a directory of its own, and taken away again."""

    format: int = FORMAT
    at: float
    """When it began; seconds since the epoch by this machine's clock."""
    incarnation: str
    """Of the cluster that was recovered, as `SYSID-MAJOR`."""
    failure: Failure | None = None
    """None: it passed."""
    seconds: float = 0.0
    """From when it began until the server had committed a write."""
    timeline: int | None = None
    lsn: str | None = None
    """Up to where WAL was replayed."""
    last_commit_time: float | None = None
    """Of the newest commit in it, by the primary's clock; None: not known."""


class LastDrill:
    """directory: the instance's, `InstancePlaces.home`."""

    def __init__(self, directory: Path) -> None:
        self._path = drill_path(directory)
        self._seen: tuple[int, ...] | None = None
        self._drill: Drill | None = None

    def now(self) -> Drill | None:
        """As it stands there; None: there was none.  Raises nothing: what can't be read counts
        as a drill that failed."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._seen = self._drill = None
            return None
        except OSError as error:
            self._seen = None
            return _unreadable(self._path, time.time(), error)
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            self._seen, self._drill = seen, _read(self._path, found.st_mtime)
        return self._drill


def drill_path(directory: Path) -> Path:
    return directory / _NAME


def save_drill(directory: Path, drill: Drill) -> None:
    """Replace what is there, durably, for the owner of `directory`.  Blocks; raises OSError."""
    path = drill_path(directory)
    data = msgspec.json.format(msgspec.json.encode(drill), indent=2)
    durable.write_file(path, data + b"\n", mode=0o644)
    if os.geteuid() == 0:
        owner = directory.stat()
        # Its owner may put a link there meanwhile.
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def failure_of(error: Exception) -> Failure:
    """Without secrets: it is shown to whoever asks for the status."""
    if isinstance(error, LogshipError):
        return Failure(code=str(error.code), what=redact(error.what), hint=redact(error.hint))
    said = redact(f"unexpected {type(error).__name__}: {error}")
    return Failure(code=str(Code.INTERNAL), what=said, hint="this is a bug in Logship: report it")


def _read(path: Path, at: float) -> Drill:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)  # cut off it is no JSON
        return json_decoder(Drill).decode(data)
    except (OSError, *UNREADABLE) as error:
        return _unreadable(path, at, error)


def _unreadable(path: Path, at: float, error: Exception) -> Drill:
    return Drill(
        at=at,
        incarnation="",
        failure=Failure(
            code=str(Code.DRILL_FAILED),
            what=f"{path}, what the last drill showed, can't be read: {error}",
            hint="make another one",
        ),
    )

"""What a rehearsal leaves that is killed (SIGKILL, a power cut): the next one removes it.

Before it makes anything outside of its own process a rehearsal writes a note of it, and keeps that
locked.  The kernel takes the lock away when the process ends, however it ends, so a note that can
be locked is of a rehearsal that is gone: no process id is compared, which may be another's by now.
Of a directory the name is known only once it is made: killed in between, an empty one stays.
Who lives is left alone, also one in a container that has the directory of notes from this host.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from logship.errors import Code, LogshipError
from logship.rehearsal.engine.local_processes import kill_below

DIRECTORY = "directory"
"""The kind of what is noted by the path of a directory of this host."""

Remove = Callable[[str], str]
"""Removes what a note names.  Returns what that was, in words; "": there was nothing any more.
Raises LogshipError."""


class Note:
    """Says of what kind and name something is that goes with this process."""

    def __init__(self, kind: str, name: str) -> None:
        self._file, path = tempfile.mkstemp(".note", _prefix(), _place())
        self._path = Path(path)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        os.write(self._file, json.dumps({"kind": kind, "name": name}).encode())

    def withdraw(self) -> None:
        """What it says is removed.  May be called twice."""
        self._path.unlink(missing_ok=True)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class NotedDirectory:
    """A temporary directory with a note of it.  Its path is short, as those of unix sockets must
    be, and open, as servers of other accounts go through it."""

    def __init__(self) -> None:
        # Processes below it are found by their directory, as the kernel tells it.
        self.path = Path(tempfile.mkdtemp(prefix="logship-")).resolve()
        self.path.chmod(0o755)
        self._note = Note(DIRECTORY, str(self.path))

    def remove(self) -> None:
        """Where that fails the next rehearsal tries again."""
        shutil.rmtree(self.path, ignore_errors=True)
        if not self.path.exists():
            self._note.withdraw()


def remove_left_behind(kinds: Mapping[str, Remove]) -> tuple[str, ...]:
    """Remove what this account's rehearsals left that were killed, and of what kind there is
    somebody who can.  Returns what a person is to be told, a line each.  Never raises for what
    can't be removed: it can be by hand."""
    removed: list[str] = []
    lines: list[str] = []
    for path, kind, name in _of_the_dead():
        if kind not in kinds:
            continue
        try:
            removed.append(kinds[kind](name))
        except (LogshipError, OSError) as error:
            lines.append(f"what a killed rehearsal left can't be removed: {error}")
        else:
            path.unlink(missing_ok=True)
    if any(removed):
        said = ", ".join(filter(None, removed))
        lines.insert(0, f"removed what was left of a rehearsal that was killed: {said}")
    return tuple(lines)


def remove_directory(name: str) -> str:
    """See `Remove`: with all that works below it."""
    directory = Path(name)
    if not directory.is_dir() or directory.is_symlink() or directory.stat().st_uid != os.getuid():
        return ""
    kill_below(directory)
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        raise LogshipError(
            Code.REHEARSAL_FAILED, f"{directory} is still there", "look why, and remove it"
        )
    return name


def _of_the_dead() -> Iterator[tuple[Path, str, str]]:
    """Each note whose rehearsal is gone, locked while it is looked at."""
    for path in sorted(_place().glob(f"{_prefix()}*.note")):
        with contextlib.suppress(OSError):  # withdrawn meanwhile
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                said = _said(file)
                if said is not None:
                    yield path, *said
            finally:
                os.close(file)


def _said(file: int) -> tuple[str, str] | None:
    """What it says once it is locked; None: its rehearsal lives, or it is none of ours."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    found = os.fstat(file)
    # Everybody can write there.  One without a name was withdrawn when we had opened it.
    if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        return None
    try:
        note = json.loads(os.read(file, found.st_size))
        return str(note["kind"]), str(note["name"])
    except (ValueError, KeyError, TypeError):
        return None  # it is just being written


def _prefix() -> str:
    return f"logship-rehearsal-{os.getuid()}-"


def _place() -> Path:
    # Unlike /tmp it outlives a boot of the host, as containers do.
    lasting = Path("/var/tmp")
    if "TMPDIR" not in os.environ and os.access(lasting, os.W_OK):
        return lasting
    return Path(tempfile.gettempdir())

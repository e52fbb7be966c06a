"""Tablespaces that the primary makes while its standby follows: a path for each, of our own.

Replay makes a tablespace at the primary's path.  On this machine that may not be there, or may
be another standby's, so a server that has such a record before it is started with the path bound
to `tablespaces/<oid>` of its incarnation, as a seed's tablespaces are
(`logship.postgres.private_paths`).  Once no replay can come to the record again, the link in
`pg_tblspc` is turned to that directory, and the server needs nothing private any more.

Where that is not permitted, a directory that an operator made at the primary's path will do, as
long as nobody else has it: a file in it says whose it is.

`NOTES_NAME`, in the incarnation's directory, says which records there are; it is written before
the WAL that has them is.  All of it blocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from applier.standby import server_log
from applier.standby.layout import StandbyLayout
from applier.standby.placement import make_private_directory
from logship import durable
from logship.decoders import convert
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.postgres.control_file import read_control_file
from logship.postgres.private_paths import PrivatePaths, sees
from logship.postgres.run_as import RunAs
from logship.wal_tablespaces import TablespaceCreated

NOTES_NAME: Final = "created-tablespaces.json"
OWNER_NAME: Final = "logship-owner"
"""The file by which an incarnation has an operator's directory for itself."""
_MAX_OWNER_CHARACTERS = 8192

_REPLAYED = re.compile(
    r'WAL redo at ([0-9A-F]+/[0-9A-F]+) for Tablespace/CREATE: ([0-9]+) "(/.*)"$', re.MULTILINE
)
"""`rm_redo_error_callback` (xlogrecovery.c) with `tblspc_desc` (tblspcdesc.c)."""

_START = re.compile(r"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) ", re.MULTILINE)
"""In a backup_label."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A record that makes a tablespace."""

    start_lsn: int
    oid: int
    location: str
    """As the primary names it."""
    directory: str
    """Name below `tablespaces/`: of all that the primary ever made at this path the same."""
    way: Literal["", "private", "host"] = ""
    """How its server has the path.  "": it was never given the record.  "private": it sees our
    directory there.  "host": the machine's directory of that path is its own."""

    @property
    def shown_location(self) -> str:
        """For people: any bytes may be in a path."""
        return self.location.encode("utf-8", "backslashreplace").decode()

    @property
    def path(self) -> Path:
        """Where that is on this machine, if it is there: without links."""
        return Path(os.path.realpath(self.location))


class TablespaceNotes:
    """The notes of one incarnation, for threads to share.  All raise LogshipError
    (STANDBY_FAILED)."""

    def __init__(self, incarnation_directory: Path) -> None:
        self.directory = incarnation_directory
        self._path = incarnation_directory / NOTES_NAME
        self._turn = threading.Lock()
        self._notes: tuple[Note, ...] | None = None

    def all(self) -> tuple[Note, ...]:
        """In the order of the WAL."""
        with self._turn:
            return self._read()

    def add(
        self, records: Iterable[TablespaceCreated | Note], way: Literal["", "private"] = ""
    ) -> tuple[Note, ...]:
        """Note durably what is not noted yet; returns that."""
        with self._turn:
            before = self._read()
            after = with_records(before, records, way)
            self._write(after)
            return tuple(note for note in after if note not in before)

    def change(self, changed: Mapping[Note, Note]) -> None:
        """Put notes in the place of others, durably."""
        with self._turn:
            self._write(tuple(changed.get(note, note) for note in self._read()))

    def _read(self) -> tuple[Note, ...]:
        if self._notes is None:
            try:
                found = json.loads(self._path.read_bytes())
                self._notes = convert(found, tuple[Note, ...])
            except FileNotFoundError:
                self._notes = ()
            except (OSError, ValueError) as error:
                raise LogshipError(
                    Code.STANDBY_FAILED,
                    f"{self._path} can't be read: {error}",
                    "it says where the primary made tablespaces since the seed; "
                    "remove it, then seed the instance anew",
                ) from error
        return self._notes

    def _write(self, notes: tuple[Note, ...]) -> None:
        if notes == self._notes:
            return
        try:
            # As the standard library does it: paths need not be UTF-8.
            text = json.dumps([msgspec.to_builtins(note) for note in notes])
            durable.write_file(self._path, text.encode())
        except OSError as error:
            raise LogshipError(
                Code.STANDBY_FAILED,
                f"{self._path} can't be written: {error}",
                "look at the disk",
                retryable=True,
            ) from error
        self._notes = notes


def with_records(
    notes: tuple[Note, ...],
    records: Iterable[TablespaceCreated | Note],
    way: Literal["", "private"] = "",
) -> tuple[Note, ...]:
    """The notes, and of `records` what is not among them yet, in the order of the WAL.  Pure."""
    known = {_identity(note) for note in notes}
    directories = {note.location: note.directory for note in reversed(notes)}
    for record in records:
        if record.location and _identity(record) not in known:
            note = Note(
                start_lsn=record.start_lsn,
                oid=record.oid,
                location=record.location,
                directory=directories.setdefault(record.location, str(record.oid)),
                way=way,
            )
            notes = (*notes, note)
    return tuple(sorted(notes, key=lambda note: note.start_lsn))


def _identity(record: TablespaceCreated | Note) -> tuple[int, int, str]:
    return record.start_lsn, record.oid, record.location


def path_error(note: Note, why: str, run_as: RunAs) -> LogshipError:
    """The standby can't replay the record, nor go on without."""
    return LogshipError(
        Code.TABLESPACE_PATH,
        f"the primary made a tablespace at {note.shown_location} ({Lsn(note.start_lsn)}), and the "
        f"standby can't have that path for itself: {why}",
        f"permit user namespaces for {run_as.name}, or make the directory, empty and of no "
        f"other use: install -d -o {run_as.name} -m 0700 {shlex.quote(note.shown_location)}; "
        "the standby then goes on by itself",
        retryable=True,
    )


class StandbyTablespaces:
    """Of one data directory.

    why_not: says why no server may have private paths here, "" if it may; blocks shortly.
    Raises LogshipError (STANDBY_FAILED, CONTROL_FILE) and OSError where files can't be used.
    """

    def __init__(
        self,
        layout: StandbyLayout,
        run_as: RunAs,
        notes: TablespaceNotes,
        why_not: Callable[[], str],
    ) -> None:
        self._layout = layout
        self._run_as = run_as
        self._notes = notes
        self._why_not = why_not
        self._failure = ""
        """Why the last start with private paths failed."""

    def why_not(self) -> str:
        """Why the server can't have private paths; "" if it can."""
        return self._failure or self._why_not()

    def can_be_private(self) -> bool:
        """Whether another start may give the server what it does not see yet."""
        return not self.why_not()

    def start(self, start: Callable[[PrivatePaths | None], int]) -> int:
        """Have `start` start the server, with what it must see.

        Raises what `start` does, and LogshipError (TABLESPACE_PATH): it can't have that, and
        would replay into a directory that is not its own.
        """
        self.settle()
        self._failure = ""
        needed = tuple(note for note in self._needed() if note.way != "host")
        if needed and not (why_not := self._why_not()):
            try:
                return start(self._private_paths(needed))
            except LogshipError as error:
                if error.code != Code.TABLESPACE_PATH:
                    raise
                self._failure = why_not = error.what
        if needed:
            self._do_without(needed, why_not)
        return start(None)

    def unready(self, pid: int | None) -> tuple[Note, ...]:
        """Of the records before it, those that the running server (None: it is down) may not
        replay yet.  How it has the paths of the others is noted."""
        unready: list[Note] = []
        changed: dict[Note, Note] = {}
        for note in self._needed():
            way = note.way
            if way == "host":
                continue
            if pid is not None and sees(pid, note.path, self._ours(note)):
                way = "private"
            elif way == "" and self.why_not() and self._takes_host_path(note):
                way = "host"
            else:
                unready.append(note)
            if way != note.way:
                changed[note] = msgspec.structs.replace(note, way=way)
        if changed:
            self._notes.change(changed)
        return tuple(unready)

    def are_settled(self) -> bool:
        """Whether no replay comes to any of the records again."""
        return not self._needed()

    def settle(self) -> None:
        """Where no replay comes to a record again, take the server off the path: turn the link
        to our directory.  Tidy up after those that were dropped.  A server may be running."""
        notes = self._notes.all()
        if not notes:
            return
        redo_lsn = self._redo_lsn()
        settled = [note for note in notes if note.start_lsn < redo_lsn]
        in_use = {note.directory for note in notes if note.start_lsn >= redo_lsn}
        for note in settled:
            link = self._layout.data / "pg_tblspc" / str(note.oid)
            if link.is_symlink():
                in_use.add(note.directory)
                if note.way == "private" and str(link.readlink()) == note.location:
                    self._turn(link, self._ours(note))
        for note in settled:
            if note.directory in in_use:
                continue
            with contextlib.suppress(OSError):  # not empty, or gone
                self._ours(note).rmdir()
            if note.way == "host" and self._takes_host_path(note, claim=False):
                durable.remove(note.path / OWNER_NAME)

    def learn(self, log_file: Path, from_offset_bytes: int) -> bool:
        """Whether the server ended on a record that nobody had noted; it is by now."""
        text = server_log.tail(log_file, from_offset_bytes)
        records = [
            TablespaceCreated(int(Lsn.parse(found[1])), int(found[2]), found[3])
            for found in _REPLAYED.finditer(text)
        ]
        return bool(records and self._notes.add(records, "private"))

    # --- inside ---------------------------------------------------------------------------

    def _private_paths(self, needed: Iterable[Note]) -> PrivatePaths:
        root = self._layout.standby / "root"
        durable.make_directory(root, 0o755)
        make_private_directory(self._layout.incarnation_directory / "tablespaces", self._run_as)
        for note in needed:
            make_private_directory(self._ours(note), self._run_as)
        return PrivatePaths(root, {note.path: self._ours(note) for note in needed})

    def _do_without(self, needed: Iterable[Note], why: str) -> None:
        """What the server was never given it can't replay: it is held before that.  Of other
        records it must have the machine's directory, which it gets if it can."""
        for note in needed:
            if note.way != "private":
                continue
            if _has_entries(self._ours(note)) or not self._takes_host_path(note):
                raise path_error(note, why, self._run_as)
            self._notes.change({note: msgspec.structs.replace(note, way="host")})

    @property
    def _name(self) -> str:
        return str(self._layout.incarnation_directory)

    def _ours(self, note: Note) -> Path:
        return self._layout.incarnation_directory / "tablespaces" / note.directory

    def _needed(self) -> tuple[Note, ...]:
        """Of records that a replay may still come to."""
        notes = self._notes.all()
        if not notes:
            return ()
        redo_lsn = self._redo_lsn()
        return tuple(note for note in notes if note.start_lsn >= redo_lsn)

    def _redo_lsn(self) -> int:
        """Where replay begins at the next start."""
        # A backup's control file may be newer than where its replay begins.
        with contextlib.suppress(FileNotFoundError):
            label = (self._layout.data / "backup_label").read_text(errors="replace")
            found = _START.search(label)
            if found is not None:
                return int(Lsn.parse(found[1]))
        return int(read_control_file(self._layout.data).redo_lsn)

    def _takes_host_path(self, note: Note, *, claim: bool = True) -> bool:
        """Whether the machine's directory of that path is this incarnation's.  claim: take it if
        it is the account's, and empty."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(note.path, flags)
        except OSError:
            return False
        try:
            # All of it by this handle: as root we write nowhere but in the account's directory.
            if os.fstat(fd).st_uid != self._run_as.uid:
                return False
            if claim and not os.listdir(fd):
                self._claim(fd)
            return _owner_in(fd) == self._name
        except OSError:
            return False
        finally:
            os.close(fd)

    def _claim(self, directory: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(OWNER_NAME, flags, 0o600, dir_fd=directory)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(self._name)
            if self._run_as.changes:
                os.fchown(fd, self._run_as.uid, self._run_as.gid)

    def _turn(self, link: Path, target: Path) -> None:
        # No name of digits alone: PostgreSQL passes over it.
        beside = link.with_name(f"{link.name}.turned")
        durable.remove(beside)
        beside.symlink_to(target)
        self._run_as.chown(beside)
        durable.rename(beside, link)


def _owner_in(directory: int) -> str:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(OWNER_NAME, flags, dir_fd=directory)
    except OSError:
        return ""
    with open(fd, encoding="utf-8", errors="replace") as file:
        return file.read(_MAX_OWNER_CHARACTERS)


def _has_entries(path: Path) -> bool:
    try:
        with os.scandir(path) as found:
            return next(found, None) is not None
    except FileNotFoundError:
        return False

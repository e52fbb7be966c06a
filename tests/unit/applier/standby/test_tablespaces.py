"""Notes of tablespaces that the primary makes: what a server must see, and when no more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from applier.standby.layout import StandbyLayout
from applier.standby.tablespaces import (
    NOTES_NAME,
    OWNER_NAME,
    StandbyTablespaces,
    TablespaceNotes,
    with_records,
)
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.postgres.private_paths import PrivatePaths
from logship.postgres.run_as import RunAs
from logship.wal_tablespaces import TablespaceCreated

OURSELVES = RunAs("us", os.geteuid(), os.getegid(), (), changes=False)
EARLY, LATE = 0x3000100, 0x5000100
FORBIDDEN = "they are not permitted"


class Place:
    """An incarnation's directory whose server was never started: the backup's label says where
    its replay begins."""

    def __init__(self, directory: Path) -> None:
        self.layout = StandbyLayout(directory / "incarnation", directory / "socket")
        (self.layout.data / "pg_tblspc").mkdir(parents=True)
        self.layout.standby.mkdir()
        self.location = directory / "fast"
        self.why_not = ""
        self.starts: list[PrivatePaths | None] = []
        self.fails_with = ""
        self.notes = TablespaceNotes(self.layout.incarnation_directory)
        self.tablespaces = StandbyTablespaces(
            self.layout, OURSELVES, self.notes, lambda: self.why_not
        )
        self.replay_from(0x2000028)

    def replay_from(self, lsn: int) -> None:
        label = f"START WAL LOCATION: {Lsn(lsn)} (file 000000010000000000000002)\n"
        (self.layout.data / "backup_label").write_text(label)

    def created(self, lsn: int = EARLY, oid: int = 16385) -> TablespaceCreated:
        return TablespaceCreated(lsn, oid, str(self.location))

    def start(self) -> int:
        return self.tablespaces.start(self._start)

    def _start(self, private_paths: PrivatePaths | None) -> int:
        self.starts.append(private_paths)
        if private_paths is not None and self.fails_with:
            raise LogshipError(Code.TABLESPACE_PATH, self.fails_with)
        return 4711

    def ways(self) -> list[str]:
        """As the next applier reads them."""
        return [note.way for note in TablespaceNotes(self.notes.directory).all()]

    def ours(self, name: str = "16385") -> Path:
        return self.layout.incarnation_directory / "tablespaces" / name

    def link(self, oid: int, target: Path) -> Path:
        path = self.layout.data / "pg_tblspc" / str(oid)
        path.symlink_to(target)
        return path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_of_one_path_all_tablespaces_share_a_directory_in_the_order_of_the_wal() -> None:
    records = [
        TablespaceCreated(30, 3, "/a"),
        TablespaceCreated(10, 1, "/a"),
        TablespaceCreated(20, 2, "/b"),
        TablespaceCreated(25, 4, ""),
    ]
    notes = with_records((), records[1:])
    notes = with_records(notes, records)
    assert [(note.start_lsn, note.directory) for note in notes] == [(10, "1"), (20, "2"), (30, "1")]


def test_notes_outlive_us_whatever_bytes_are_in_a_path(place: Place) -> None:
    odd = b"/mnt/caf\xe9".decode("utf-8", "surrogateescape")
    place.notes.add([TablespaceCreated(EARLY, 16385, odd)])
    assert place.notes.add([TablespaceCreated(EARLY, 16385, odd)]) == ()
    (note,) = TablespaceNotes(place.notes.directory).all()
    assert (note.location, note.shown_location, note.way) == (odd, "/mnt/caf\\udce9", "")
    (place.notes.directory / NOTES_NAME).write_bytes(b"[{")
    with pytest.raises(LogshipError) as refused:
        TablespaceNotes(place.notes.directory).all()
    assert refused.value.code == Code.STANDBY_FAILED


def test_a_server_sees_the_paths_of_what_it_may_still_replay(place: Place) -> None:
    assert place.start() == 4711
    place.notes.add([place.created(EARLY), TablespaceCreated(LATE, 16386, "/mnt/other")])
    place.start()
    assert place.ours().stat().st_mode & 0o777 == 0o700
    place.replay_from(EARLY + 1)
    place.start()
    place.replay_from(LATE + 1)
    place.start()
    seen = [paths and dict(paths.paths) for paths in place.starts]
    both = {place.location: place.ours(), Path("/mnt/other"): place.ours("16386")}
    assert seen == [None, both, {Path("/mnt/other"): place.ours("16386")}, None]


def test_what_a_server_was_never_given_does_not_keep_it_from_starting(place: Place) -> None:
    place.notes.add([place.created()])
    place.why_not = FORBIDDEN
    place.start()
    assert place.starts == [None]
    place.why_not, place.fails_with = "", "no mounts of its own"
    place.start()
    assert [paths is None for paths in place.starts] == [True, False, True]
    assert not place.tablespaces.can_be_private()
    assert place.ways() == [""]


@pytest.mark.parametrize("forbidden", (True, False))
def test_a_server_is_not_started_where_it_would_replay_into_a_foreign_directory(
    place: Place, forbidden: bool
) -> None:
    place.notes.add([place.created()], "private")
    place.why_not = FORBIDDEN if forbidden else ""
    place.fails_with = FORBIDDEN
    place.location.mkdir()
    (place.location / "PG_17_202406281").mkdir()
    with pytest.raises(LogshipError) as refused:
        place.start()
    assert refused.value.code == Code.TABLESPACE_PATH
    assert FORBIDDEN in refused.value.what
    assert str(place.location) in refused.value.hint
    assert None not in place.starts
    assert not (place.location / OWNER_NAME).exists()


def test_where_nothing_was_replayed_yet_an_empty_directory_of_the_machine_will_do(
    place: Place,
) -> None:
    place.notes.add([place.created()], "private")
    place.why_not = FORBIDDEN
    place.location.mkdir()
    place.start()
    assert (place.starts, place.ways()) == ([None], ["host"])
    place.why_not = ""
    place.start()
    assert place.starts == [None, None], "its files are there now"


def test_a_server_that_sees_our_directory_is_ready(place: Place) -> None:
    place.notes.add([place.created()])
    place.start()
    assert [note.oid for note in place.tablespaces.unready(os.getpid())] == [16385]
    assert place.tablespaces.unready(None) == place.notes.all()
    place.location.symlink_to(place.ours())  # the machine itself leads there
    assert place.tablespaces.unready(os.getpid()) == ()
    assert place.ways() == ["private"]
    assert place.tablespaces.unready(None) != ()


def test_a_directory_of_the_machine_is_one_standbys_alone(place: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other")
    other.location = place.location
    for one in (place, other):
        one.why_not = FORBIDDEN
        one.notes.add([one.created()])
        assert one.tablespaces.unready(os.getpid()) != ()
    place.location.mkdir()
    assert place.tablespaces.unready(os.getpid()) == ()
    assert other.tablespaces.unready(os.getpid()) != ()
    assert (place.ways(), other.ways()) == (["host"], [""])

    # Dropped on the primary, and no replay comes to it again: the next one may have it.
    place.replay_from(LATE)
    place.tablespaces.settle()
    place.tablespaces.settle()
    assert os.listdir(place.location) == []
    assert other.tablespaces.unready(os.getpid()) == ()
    place.tablespaces.settle()
    assert os.listdir(place.location) == [OWNER_NAME]


def test_a_link_is_turned_once_no_replay_makes_it_again(place: Place) -> None:
    place.notes.add([place.created()], "private")
    place.start()
    (place.ours() / "PG_17_202406281").mkdir()
    link = place.link(16385, place.location)
    place.tablespaces.settle()
    assert link.readlink() == place.location
    assert not place.tablespaces.are_settled()
    place.replay_from(EARLY + 1)
    place.tablespaces.settle()
    place.tablespaces.settle()
    assert link.readlink() == place.ours()
    assert os.listdir(link.parent) == ["16385"]
    assert place.tablespaces.are_settled()


def test_what_was_dropped_is_tidied_up_unless_its_directory_is_used_again(place: Place) -> None:
    place.notes.add([place.created(EARLY, 16385), place.created(LATE, 16390)], "private")
    place.start()
    place.replay_from(EARLY + 1)
    place.tablespaces.settle()
    assert place.ours().exists(), "the later one will have it"
    place.replay_from(LATE + 1)
    link = place.link(16390, place.ours())
    place.tablespaces.settle()
    assert place.ours().exists()
    link.unlink()
    (place.ours() / "left").touch()
    place.tablespaces.settle()
    assert place.ours().exists()
    (place.ours() / "left").unlink()
    place.tablespaces.settle()
    assert not place.ours().exists()


def test_a_record_that_ended_the_server_is_learned_once(place: Place) -> None:
    place.layout.log_file.write_text(
        f'2026-11-28 FATAL:  directory "{place.location}" does not exist\n'
        "2026-11-28 HINT:  Create this directory for the tablespace before restarting.\n"
        f"2026-11-28 CONTEXT:  WAL redo at 0/3000100 for Tablespace/CREATE: 16385 "
        f'"{place.location}"\n'
        "2026-11-28 LOG:  startup process (PID 1) exited with exit code 1\n"
    )
    assert place.tablespaces.learn(place.layout.log_file, 0)
    assert not place.tablespaces.learn(place.layout.log_file, 0)
    (note,) = place.notes.all()
    assert (note.start_lsn, note.oid, note.way) == (EARLY, 16385, "private")
    assert note.location == str(place.location)

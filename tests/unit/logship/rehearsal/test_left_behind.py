"""Notes of what a rehearsal makes: who is found dead by them, and what is then removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from logship.errors import Code, LogshipError
from logship.rehearsal.engine import containers
from logship.rehearsal.engine.left_behind import (
    DIRECTORY,
    Note,
    NotedDirectory,
    remove_directory,
    remove_left_behind,
)

NOTES = """
import sys, time
from logship.rehearsal.engine.left_behind import Note
notes = [Note(sys.argv[1], name) for name in sys.argv[2:]]
print("noted", flush=True)
time.sleep(300)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@contextmanager
def noting(kind: str, *names: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", NOTES, kind, *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "noted\n"
        try:
            yield other
        finally:
            other.kill()


def taking(removed: list[str]) -> Callable[[str], str]:
    def remove(name: str) -> str:
        removed.append(name)
        return name

    return remove


def test_only_what_is_of_a_process_that_is_gone_is_removed(place: Path) -> None:
    removed: list[str] = []
    ours = Note("thing", "ours")
    with noting("thing", "one"):
        assert remove_left_behind({"thing": taking(removed)}) == ()
    assert remove_left_behind({"other": taking(removed)}) == ()
    assert removed == []
    (said,) = remove_left_behind({"thing": taking(removed)})
    assert said == "removed what was left of a rehearsal that was killed: one"
    assert removed == ["one"]
    assert remove_left_behind({"thing": taking(removed)}) == ()
    ours.withdraw()
    ours.withdraw()
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [LogshipError(Code.REHEARSAL_FAILED, "it does not end"), PermissionError(1, "it is not yours")],
)
def test_what_can_not_be_removed_is_said_and_tried_again(place: Path, error: Exception) -> None:
    def fail(name: str) -> str:
        raise error

    with noting("thing", "one"):
        pass
    (said,) = remove_left_behind({"thing": fail})
    assert said.startswith(f"what a killed rehearsal left can't be removed: {error}")
    removed: list[str] = []
    assert remove_left_behind({"thing": taking(removed)}) and removed == ["one"]
    assert list(place.iterdir()) == []


def test_of_what_is_gone_already_nothing_is_said(place: Path) -> None:
    with noting(DIRECTORY, str(place / "nowhere")):
        pass
    assert remove_left_behind({DIRECTORY: remove_directory}) == ()
    assert list(place.iterdir()) == []


def test_what_is_no_note_of_ours_is_left_alone(place: Path) -> None:
    prefix = f"logship-rehearsal-{os.getuid()}-"
    precious = place / "precious"
    precious.mkdir()
    (place / "elsewhere").write_text(f'{{"kind": "{DIRECTORY}", "name": "{precious}"}}')
    (place / f"{prefix}linked.note").symlink_to(place / "elsewhere")
    (place / f"{prefix}twice.note").hardlink_to(place / "elsewhere")
    (place / f"{prefix}empty.note").touch()
    (place / f"{prefix}words.note").write_text("[1]")
    before = sorted(place.iterdir())
    assert remove_left_behind({DIRECTORY: remove_directory}) == ()
    assert sorted(place.iterdir()) == before
    link = place / "link"
    link.symlink_to(precious)
    assert remove_directory(str(link)) == ""
    assert precious.is_dir()


def test_a_directory_goes_with_its_note(place: Path) -> None:
    directory = NotedDirectory()
    assert directory.path.stat().st_mode & 0o777 == 0o755
    assert remove_left_behind({DIRECTORY: remove_directory}) == ()
    (directory.path / "file").touch()
    directory.remove()
    assert list(place.iterdir()) == []


def test_what_works_in_a_directory_is_found_also_through_a_link(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, link = place / "real", place / "link"
    real.mkdir()
    link.symlink_to(real)
    monkeypatch.setenv("TMPDIR", str(link))
    monkeypatch.setattr(tempfile, "tempdir", None)
    directory = NotedDirectory()
    with subprocess.Popen(["sleep", "300"], cwd=directory.path) as working:
        assert remove_directory(str(directory.path))
        assert working.wait(30) == -signal.SIGKILL
    directory.remove()


class Things:
    """Containers, volumes or networks of an engine, by the session in whose name they are."""

    def __init__(self, *sessions: str) -> None:
        self.there = list(sessions)

    def list(self, *, filters: dict[str, str], **_: object) -> list[Any]:
        label, _, session = filters["label"].partition("=")
        assert label == containers.SESSION_LABEL

        def remove(**_: object) -> None:
            self.there.remove(session)

        return [SimpleNamespace(remove=remove) for each in self.there if each == session]


def test_machines_of_a_killed_rehearsal_go_and_those_of_others_stay(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [Things("dead", "lives", "far"), Things("dead", "lives"), Things("dead")]
    client = SimpleNamespace(
        close=lambda: None, **dict(zip(("containers", "volumes", "networks"), groups, strict=True))
    )
    monkeypatch.setattr(containers, "connect", lambda: client)
    monkeypatch.setattr(containers, "engine_host", lambda: "unix:///here.sock")
    engine = containers.ContainerEngine()
    here = "logship.rehearsal at unix:///here.sock"
    with noting(here, "dead"), noting("logship.rehearsal at unix:///there.sock", "far"):
        pass
    with noting(here, "lives"):
        (said,) = engine.remove_left_behind()
    assert said.endswith("containers, volumes and networks with the label logship.rehearsal=dead")
    assert [each.there for each in groups] == [["lives", "far"], ["lives"], []]
    engine.close()
    assert len(list(place.iterdir())) == 2, "of those with another engine, and of who lived"

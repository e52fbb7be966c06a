"""What is refused before a drill begins, and what is written down of one that ends badly."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from applier.fleet.places import InstancePlaces, Volumes
from applier.operations.last_drill import Drill, LastDrill, save_drill
from applier.operations.record import InstanceRecord, save_record
from applier.restore.drilling import Wanted, drill
from applier.restore.opening import Places
from applier.restore.sources import Sources
from applier.settings import ApplierSettings
from logship.errors import Code, LogshipError, RefusedError, UsageError
from tests.support.link_frames import profile

BEFORE = Drill(at=5.0, incarnation="")


def silent(_step: str, _details: dict[str, Any]) -> None:
    """Nobody watches."""


@pytest.fixture
def settings(shared_tmp_path: Path) -> ApplierSettings:
    return ApplierSettings(directory=shared_tmp_path)


@pytest.fixture
def home(settings: ApplierSettings) -> Path:
    made = InstancePlaces(settings.directory, "main").home
    made.mkdir(parents=True)
    save_drill(made, BEFORE)
    return made


def test_of_an_instance_that_is_not_here_nothing_is_made(settings: ApplierSettings) -> None:
    with pytest.raises(UsageError, match="nothing of main is here") as caught:
        drill(settings, "main", Places(), Wanted(), silent)
    assert caught.value.code is Code.UNKNOWN_INSTANCE and caught.value.hint
    with pytest.raises(UsageError, match="cannot name an instance"):
        drill(settings, "../main", Places(), Wanted(), silent)
    assert list(settings.directory.iterdir()) == []


def test_two_at_a_time_are_refused(settings: ApplierSettings, home: Path) -> None:
    fd = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(RefusedError, match="is being made already"):
            drill(settings, "main", Places(), Wanted(), silent)
    finally:
        os.close(fd)
    assert LastDrill(home).now() == BEFORE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_who_may_not_write_it_down_makes_none(settings: ApplierSettings, home: Path) -> None:
    home.chmod(0o500)
    try:
        with pytest.raises(RefusedError, match="can't be written"):
            drill(settings, "main", Places(), Wanted(), silent)
    finally:
        home.chmod(0o700)


def test_a_directory_that_is_used_is_left_alone(settings: ApplierSettings, home: Path) -> None:
    used = settings.directory / "used"
    used.mkdir()
    (used / "mine").touch()
    with pytest.raises(RefusedError, match="is not empty"):
        drill(settings, "main", Places(), Wanted(into=used), silent)
    assert (used / "mine").exists()
    assert LastDrill(home).now() == BEFORE


def test_a_server_is_kept_only_where_no_drill_comes_by(
    settings: ApplierSettings, home: Path
) -> None:
    with pytest.raises(UsageError, match="a directory of its own"):
        drill(settings, "main", Places(), Wanted(keep=True), silent)


def test_a_volume_that_is_not_mounted_is_not_written_to(
    settings: ApplierSettings, home: Path, shared_tmp_path: Path
) -> None:
    heard, volume = profile(), shared_tmp_path / "volume"
    record = InstanceRecord(
        name="main",
        profile=heard,
        incarnation=heard.incarnation,
        volumes=Volumes(standby=str(volume)),
    )
    save_record(home, record)
    with pytest.raises(LogshipError, match="is not there"):
        drill(settings, "main", Places(), Wanted(), silent)
    assert not volume.exists() and LastDrill(home).now() == BEFORE


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        LogshipError(Code.RESTORE_FAILED, "password=secret did not help", "look"),
        RefusedError(Code.COMPATIBILITY, "password=secret did not help", "look"),
    ],
)
def test_whatever_ends_it_is_written_down(
    settings: ApplierSettings, home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    ends_with(error, monkeypatch)
    with pytest.raises(OSError if isinstance(error, OSError) else LogshipError) as caught:
        drill(settings, "main", Places(), Wanted(), silent)
    assert not isinstance(caught.value, RefusedError), "nothing would have been written down"
    found = LastDrill(home).now()
    assert found is not None and found.failure is not None
    assert "Input/output" in found.failure.what or "password=*** did" in found.failure.what
    assert recovered(settings.directory / "drills" / "main").exists(), "to be looked into"


def test_where_room_is_short_nothing_stays_but_the_reason(
    settings: ApplierSettings, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with(LogshipError(Code.STANDBY_FAILED, "it panicked"), monkeypatch)
    more = (shutil.disk_usage(home).total >> 20) + 1
    store = msgspec.structs.replace(settings.store, keep_free_mb=more)
    settings = msgspec.structs.replace(settings, store=store)
    with pytest.raises(LogshipError, match="it panicked"):
        drill(settings, "main", Places(), Wanted(), silent)
    found = LastDrill(home).now()
    assert found is not None and found.failure is not None
    assert not (settings.directory / "drills" / "main").exists()


def test_a_result_that_can_not_be_written_hides_no_failure(
    settings: ApplierSettings, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with(LogshipError(Code.STANDBY_FAILED, "it panicked", "see"), monkeypatch)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("applier.restore.drilling.save_drill", full)
    with pytest.raises(LogshipError, match=r"it panicked; and that .* No space") as caught:
        drill(settings, "main", Places(), Wanted(), silent)
    assert caught.value.hint == "see"


def test_a_directory_that_was_there_is_left_there_and_empty(
    settings: ApplierSettings, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a mount, or its parent another user's."""
    mine, link = settings.directory / "mine", settings.directory / "link"
    mine.mkdir()
    link.symlink_to(mine)
    ends_with(KeyboardInterrupt(), monkeypatch)
    for into in (mine, link):
        with pytest.raises(KeyboardInterrupt):
            drill(settings, "main", Places(), Wanted(into=into), silent)
        assert list(mine.iterdir()) == [] and link.is_symlink()
    with pytest.raises(KeyboardInterrupt):
        drill(settings, "main", Places(), Wanted(into=settings.directory / "new"), silent)
    assert not (settings.directory / "new").exists()
    assert LastDrill(home).now() == BEFORE, "nobody knows how it would have ended"


def recovered(into: Path) -> Path:
    return into / "data" / "PG_VERSION"


def ends_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """When something has been recovered."""

    def opened(_settings: object, _name: str, _places: object, spool: Path) -> Sources:
        file = recovered(spool.with_name(spool.name.removeprefix(".").removesuffix(".wal")))
        file.parent.mkdir(parents=True)
        file.touch()
        raise error

    monkeypatch.setattr("applier.restore.drilling.hold_and_open", opened)


def test_that_there_is_nothing_to_recover_from_is_written_down(
    settings: ApplierSettings, home: Path
) -> None:
    heard = profile()
    record = InstanceRecord(name="main", profile=heard, incarnation=heard.incarnation)
    save_record(home, record)
    own = settings.directory / "drills" / "main"
    own.mkdir(parents=True)
    (own / "left").touch()
    with pytest.raises(LogshipError, match="no seed of main is kept") as caught:
        drill(settings, "main", Places(), Wanted(), silent)
    found = LastDrill(home).now()
    assert found is not None and found.failure is not None and found.at > BEFORE.at
    assert found.failure.code == str(caught.value.code)
    assert found.failure.what == caught.value.what
    assert found.incarnation == str(heard.incarnation)
    assert not own.exists(), "what a drill left before is gone"

"""What is synced early is no promise, but an error of the disk is never lost by it."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from applier.receivers.seed.early_sync import EarlySync
from logship.durable import RealDisk


def test_the_writer_is_not_kept_waiting_and_handles_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, synced = threading.Event(), []

    def slow(_: RealDisk, fd: int) -> None:
        assert gate.wait(20)
        synced.append(os.fstat(fd).st_ino)

    monkeypatch.setattr(RealDisk, "datasync", slow)
    early_sync = EarlySync()
    inodes = []
    for name in ("one", "two"):
        fd = os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT)
        inodes.append(os.fstat(fd).st_ino)
        early_sync.offer(fd)  # the second comes while the first is still being synced
        os.close(fd)
    gate.set()
    early_sync.close()
    early_sync.close()
    assert synced == inodes[:1]


def test_an_error_of_the_disk_is_raised_once_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: RealDisk, fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(RealDisk, "datasync", fail)
    early_sync = EarlySync()
    fd = os.open(tmp_path / "one", os.O_WRONLY | os.O_CREAT)
    early_sync.offer(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Input/output"):
        early_sync.close()

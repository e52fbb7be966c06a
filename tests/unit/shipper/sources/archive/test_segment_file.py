from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import crc32c
import pytest

from shipper.sources.archive import files
from shipper.sources.archive.memory import Given
from tests.support.waiting import until

CONTENT = b"WAL" * 100


def opened(path: Path) -> files.SegmentFile:
    path.write_bytes(CONTENT)
    seen = files.look(path)
    assert seen is not None
    checksum = crc32c.crc32c(CONTENT)
    given = Given(checksum, len(CONTENT), seen)
    return files.SegmentFile(path, os.open(path, os.O_RDONLY), seen, [checksum], given)


def is_open(path: Path) -> bool:
    return any(
        os.path.realpath(f"/proc/self/fd/{number}") == str(path.resolve())
        for number in os.listdir("/proc/self/fd")
    )


def test_a_file_is_closed_once_and_not_read_after_that(tmp_path: Path) -> None:
    file = opened(tmp_path / "file")
    assert file.read(3, 6) == b"WALWAL"
    file.close()
    assert not is_open(tmp_path / "file")
    # It gets the descriptor's number, and must keep it.
    with (tmp_path / "other").open("wb") as other:
        file.close()
        with pytest.raises(files.NotWholeError):
            file.read(0, 3)
        del file
        os.fstat(other.fileno())


async def test_closing_waits_for_no_reader_and_the_last_of_them_lets_the_file_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = opened(tmp_path / "file")
    answers = [threading.Event(), threading.Event()]
    inside: list[threading.Event] = []
    pread = files._pread

    def hangs(fd: int, size_bytes: int, offset: int) -> bytes:
        answer = answers[len(inside)]
        inside.append(answer)
        assert answer.wait(10), "it was waited for"
        return pread(fd, size_bytes, offset)

    monkeypatch.setattr(files, "_pread", hangs)
    readers = []
    for number in (1, 2):
        readers.append(asyncio.create_task(asyncio.to_thread(file.read, 0, 3)))
        await until(lambda count=number: len(inside) == count, "a reader is inside")
    file.close()
    file.close()
    for answer, reader in zip(answers, readers, strict=True):
        assert is_open(tmp_path / "file")
        answer.set()
        assert await reader == b"WAL"
    assert not is_open(tmp_path / "file")

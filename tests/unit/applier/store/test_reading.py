"""Slices of stored files: the same bytes as `read`, whatever becomes of the file's name."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from applier.store import Store
from applier.store.reading import FileSlice
from logship.errors import Code, LogshipError
from tests.support.wal_factory import MEGABYTE
from tests.unit.applier.store.test_store import FACTORY, START, append, open_store


@pytest.fixture
async def store(tmp_path: Path) -> Store:
    opened = open_store(tmp_path)
    await opened.begin_chain(1, START)
    await append(opened, START, START + MEGABYTE + 300_000)
    return opened


async def test_a_slice_has_what_a_read_gives_and_ends_with_the_segment(store: Store) -> None:
    for start in (START, START + 5000, START + MEGABYTE, START + MEGABYTE + 299_999):
        slice_ = store.share(1, start, 600_000)
        assert slice_ is not None
        with slice_:
            assert slice_.read() == store.read(1, start, 600_000)
            assert slice_.size_bytes == 0
        assert slice_.fd == -1
    store.close()


async def test_there_is_no_slice_of_what_is_not_written(store: Store) -> None:
    assert store.share(1, START + MEGABYTE + 300_000, 1) is None
    with pytest.raises(LogshipError) as caught:
        store.share(1, START - 1, 1)
    assert caught.value.code is Code.WAL_REMOVED
    store.close()


async def test_a_slice_outlives_the_store_s_handles_and_the_file_s_name(store: Store) -> None:
    slice_ = store.share(1, START + MEGABYTE, MEGABYTE)
    assert slice_ is not None
    await store.begin_chain(1, START + 50 * MEGABYTE, seed_id="another")
    store.close()
    with slice_:
        assert slice_.read() == FACTORY.wal(1, START + MEGABYTE, START + MEGABYTE + 300_000)


def test_what_a_socket_takes_is_gone_from_the_slice(tmp_path: Path) -> None:
    content = os.urandom(3 * MEGABYTE)
    (tmp_path / "file").write_bytes(content)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    slice_ = FileSlice(fd, 1000, len(content) - 1000)
    os.close(fd)
    received = b""
    with ours, theirs, slice_:
        while slice_.size_bytes:
            try:
                slice_.send(ours.fileno())
            except BlockingIOError:
                received += theirs.recv(MEGABYTE)
        ours.close()
        while piece := theirs.recv(MEGABYTE):
            received += piece
    assert received == content[1000:]


def test_a_slice_past_the_file_s_end_sends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    ours, theirs = socket.socketpair()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    with ours, theirs, FileSlice(fd, 5, 10) as slice_:
        assert slice_.send(ours.fileno()) == 0
        assert slice_.read() == b""
        assert slice_.size_bytes == 10
    os.close(fd)

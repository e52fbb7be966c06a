"""The store against real trouble: a full file system, a read-only one, a killed process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from applier.store import Store
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from tests.support.waiting import until
from tests.support.wal_factory import MEGABYTE, WalFactory, wal_line

pytestmark = pytest.mark.integration

LINE = wal_line()
START = 16 * MEGABYTE
FACTORY = WalFactory(LINE)

WRITER = """
import asyncio, sys
from pathlib import Path
from applier.store import Store
from tests.support.waiting import until
from tests.support.wal_factory import MEGABYTE, WalFactory, wal_line

async def main():
    line = wal_line()
    factory = WalFactory(line)
    store = Store.open(Path(sys.argv[1]), line, keep_free_bytes=0)
    if store.written is None:
        await store.begin_chain(1, 16 * MEGABYTE)
    size_bytes = 1
    while True:
        lsn = store.written.lsn
        size_bytes = size_bytes * 7 % 150_001
        end = min(lsn + size_bytes + 1, lsn - lsn % MEGABYTE + MEGABYTE)
        await store.append(1, lsn, factory.wal(1, lsn, end))
        if size_bytes % 3 == 0:
            print((await store.flush()).lsn + 0, flush=True)

asyncio.run(main())
"""


def contents(store: Store) -> bytes:
    assert store.start is not None
    lsn, parts = int(store.start.lsn), []
    while data := store.read(1, lsn, 1 << 20):
        parts.append(data)
        lsn += len(data)
    return b"".join(parts)


def test_a_killed_writer_loses_nothing_it_had_promised(tmp_path: Path) -> None:
    promised = START
    for acknowledgements in (1, 5, 20, 40, 80):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "wal")],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        assert writer.stdout is not None
        with writer.stdout:
            for _ in range(acknowledgements):
                line = writer.stdout.readline()
                assert line, "the writer ended by itself"
                promised = int(line)
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split(b"\n")[:-1]
            promised = int(rest[-1]) if rest else promised
        writer.wait()
        store = Store.open(tmp_path / "wal", LINE, keep_free_bytes=0)
        assert store.durable is not None
        assert store.durable.lsn >= promised
        assert contents(store) == FACTORY.wal(1, START, store.durable.lsn)
        store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of its own."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(path)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


async def fill(store: Store) -> LogshipError:
    """Append until the store refuses, and nothing beside it may still give room back."""
    refused_at = None
    while True:
        assert store.written is not None
        lsn = store.written.lsn
        end = min(lsn + 50_000, lsn - lsn % MEGABYTE + MEGABYTE)
        try:
            await store.append(1, lsn, FACTORY.wal(1, lsn, end))
        except LogshipError as error:
            if refused_at == lsn:
                return error
            refused_at = lsn
            # A spare segment that finds no room either gives its part back.
            await until(lambda: not store._spare_running, "no spare is being made")


@pytest.mark.parametrize("keep_free_bytes", [0, 300_000])
async def test_a_full_disk_is_waited_out(small_disk: Path, keep_free_bytes: int) -> None:
    store = Store.open(small_disk / "wal", LINE, keep_free_bytes=keep_free_bytes)
    await store.begin_chain(1, START)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(MEGABYTE))
    error = await fill(store)
    assert error.code == Code.DISK_FULL
    assert error.retryable
    assert store.failure is None
    stopped = store.written
    assert stopped is not None
    assert await store.flush() == stopped
    free = os.statvfs(small_disk)
    assert free.f_bavail * free.f_frsize >= keep_free_bytes
    assert (await fill(store)).code == Code.DISK_FULL
    assert store.written == stopped
    ballast.unlink()
    data = FACTORY.wal(1, stopped.lsn, stopped.lsn + 1000)
    assert await store.append(1, stopped.lsn, data) == Position(1, Lsn(stopped.lsn + 1000))
    assert await store.flush() == Position(1, Lsn(stopped.lsn + 1000))
    assert contents(store) == FACTORY.wal(1, START, stopped.lsn + 1000)
    store.close()


async def test_a_disk_too_full_for_a_chain_changes_nothing(small_disk: Path) -> None:
    store = Store.open(small_disk / "wal", LINE, keep_free_bytes=0)
    with (small_disk / "ballast").open("wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)):
                pass
        except OSError:
            pass
    with pytest.raises(LogshipError) as caught:
        await store.begin_chain(1, START)
    assert caught.value.code == Code.DISK_FULL
    assert store.start is None
    (small_disk / "ballast").unlink()
    await store.begin_chain(1, START)
    store.close()


async def test_a_store_on_a_read_only_file_system_says_so(small_disk: Path) -> None:
    store = Store.open(small_disk / "wal", LINE, keep_free_bytes=0)
    await store.begin_chain(1, START)
    await store.append(1, START, FACTORY.wal(1, START, START + 100))
    await store.flush()
    store.close()
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    await asyncio.to_thread(subprocess.run, remount, check=True)
    with pytest.raises(LogshipError, match="Read-only file system") as caught:
        Store.open(small_disk / "wal", LINE, keep_free_bytes=0)
    assert caught.value.code == Code.STORE_FAILED
    look = Store.open(small_disk / "wal", LINE, keep_free_bytes=0, read_only=True)
    assert look.durable == Position(1, Lsn(START + 100))
    look.close()

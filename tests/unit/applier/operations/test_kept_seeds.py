"""Copies of seeds: whatever becomes of one, the seed itself goes on."""

from __future__ import annotations

import asyncio
import threading

import pytest

from applier.operations.instance import Instance
from applier.operations.kept_seeds import WAITING_CHUNKS
from logship.bucket.seed_archive import SeedArchiveWriter
from logship.errors import Code
from logship.frames import SeedBegin, SeedChunk
from tests.support.link_frames import SEGMENT_BYTES, hello
from tests.support.waiting import until
from tests.unit.applier.operations.conftest import Listener


@pytest.fixture
def more_settings() -> str:
    return "seeds.keep = 1\n"


async def test_a_copy_that_fails_does_not_hold_up_the_seed(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    await instance.hello(hello(), listener)
    gate, abort = threading.Event(), SeedArchiveWriter.abort

    def slow_abort(writer: SeedArchiveWriter) -> None:
        assert gate.wait(10)
        abort(writer)

    monkeypatch.setattr(SeedArchiveWriter, "abort", slow_abort)
    # In the place of the directory, as a disk that can't be written.
    instance.host.settings.seeds_directory.write_text("no directory")
    kept = instance.arrival.kept
    begin = SeedBegin(seed_id="s1", timeline=1, start_lsn=SEGMENT_BYTES, estimated_bytes=0)
    await kept.begin(begin)
    await until(lambda: instance.alarms.has(Code.SEED_NOT_KEPT), "the copy failed")
    try:
        async with asyncio.timeout(5):
            for sequence in range(3 * WAITING_CHUNKS):
                chunk = SeedChunk(
                    seed_id="s1", sequence=sequence, kind="data", archive="", raw_bytes=1, crc32c=0
                )
                await kept.chunk(chunk, b"x")
    finally:
        gate.set()
    await kept.give_up()

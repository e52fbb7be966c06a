"""Requests that hang hold up no end of the process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

ENDS = """
import asyncio, sys, threading
from pathlib import Path
from tests.integration.destination_contract import Seed, Shipping
from tests.support.bucket_far_end import BucketFarEnd
from tests.support.link_frames import SEGMENT_BYTES, at
from tests.support.memory_store import MemoryStore

class Hangs(MemoryStore):
    hanging = threading.Event()

    def put(self, key, *args, **options):
        if sys.argv[2] in key:
            self.hanging.set()
            threading.Event().wait(60.0)
        return super().put(key, *args, **options)

async def main():
    store = Hangs()
    shipping = Shipping(BucketFarEnd(Path(sys.argv[1]), store))
    await shipping.connect()
    await shipping.send(1000)
    await shipping.hear_durable(at(1, SEGMENT_BYTES + 1000))
    if "/base/" in sys.argv[2]:
        await Seed().send(shipping.destination, last=5)
    else:
        await shipping.send(1000)
    await asyncio.to_thread(store.hanging.wait)
    await shipping.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("key", ["00000000001003E8", "/base/000000"], ids=["WAL", "a seed's part"])
def test_a_request_that_hangs_does_not_hold_up_the_end_of_the_process(
    tmp_path: Path, key: str
) -> None:
    began_at = time.monotonic()
    program = [sys.executable, "-c", ENDS, str(tmp_path), key]
    ended = subprocess.run(program, timeout=100, check=False)
    assert ended.returncode == 0
    assert time.monotonic() - began_at < 30
    assert b'"lsn":1049576' in (tmp_path / "state" / "bucket.json").read_bytes()

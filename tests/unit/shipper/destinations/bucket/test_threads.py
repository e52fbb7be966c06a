"""Threads for requests: as many as allowed, and none that holds up the end of the process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from shipper.destinations.bucket.threads import RequestThreads
from tests.support.waiting import until

ENDS = """
import asyncio, sys, threading
from pathlib import Path
from tests.integration.destination_contract import Shipping
from tests.support.bucket_far_end import BucketFarEnd
from tests.support.link_frames import SEGMENT_BYTES, at
from tests.support.memory_store import MemoryStore

class Hangs(MemoryStore):
    hanging = threading.Event()

    def put(self, key, *args, **options):
        if key.endswith("00000000001003E8"):
            self.hanging.set()
            threading.Event().wait(60.0)
        return super().put(key, *args, **options)

async def main():
    store = Hangs()
    shipping = Shipping(BucketFarEnd(Path(sys.argv[1]), store))
    await shipping.connect()
    await shipping.send(1000)
    await shipping.hear_durable(at(1, SEGMENT_BYTES + 1000))
    await shipping.send(1000)
    await asyncio.to_thread(store.hanging.wait)
    await shipping.close()

asyncio.run(main())
"""


def test_a_request_that_hangs_does_not_hold_up_the_end_of_the_process(tmp_path: Path) -> None:
    began_at = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", ENDS, str(tmp_path)], timeout=100, check=False)
    assert ended.returncode == 0
    assert time.monotonic() - began_at < 30
    assert b'"lsn":1049576' in (tmp_path / "state" / "bucket.json").read_bytes()


async def test_no_more_run_at_a_time_than_allowed_and_in_order() -> None:
    threads = RequestThreads(2)
    begun: list[int] = []
    go_on = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        assert go_on.wait(30.0)
        return number

    futures: list[Future[int]] = [threads.submit(work, number) for number in range(6)]
    await until(lambda: len(begun) == 2, "two have begun")
    assert futures[3].cancel()
    go_on.set()
    done = [await asyncio.wrap_future(each) for each in futures if not each.cancelled()]
    assert done == [0, 1, 2, 4, 5]
    assert sorted(begun) == [0, 1, 2, 4, 5]


async def test_what_raises_ends_no_thread_for_the_others() -> None:
    def fail() -> None:
        raise OSError("it broke")

    threads = RequestThreads(1)
    broken, sound = threads.submit(fail), threads.submit(lambda: 7)
    with pytest.raises(OSError, match="it broke"):
        await asyncio.wrap_future(broken)
    assert await asyncio.wrap_future(sound) == 7

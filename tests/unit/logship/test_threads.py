from __future__ import annotations

import asyncio
import threading

import pytest

from logship.threads import run_to_the_end
from tests.support.waiting import until


async def test_it_gives_what_the_work_gives() -> None:
    assert await run_to_the_end(None, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await run_to_the_end(None, lambda: 1 // 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_whoever_is_cancelled_waits_for_the_work_however_often(fails: bool) -> None:
    running, gate = threading.Event(), threading.Event()

    def work() -> None:
        running.set()
        assert gate.wait(10)
        if fails:
            raise ValueError("nobody hears it")

    task = asyncio.create_task(run_to_the_end(None, work))
    await until(running.is_set, "the work began")
    for _ in range(3):
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.01)
        assert not done
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task

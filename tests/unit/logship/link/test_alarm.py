from __future__ import annotations

import asyncio

from logship.link.alarm import Alarm


async def test_the_earliest_deadline_set_is_kept_and_rings_once() -> None:
    loop = asyncio.get_running_loop()
    rung: asyncio.Queue[float] = asyncio.Queue()
    alarm = Alarm(lambda: rung.put_nowait(loop.time()))
    start = loop.time()
    alarm.set(start + 60)
    alarm.set(start + 0.02)
    alarm.set(start + 120)
    assert await asyncio.wait_for(rung.get(), 5) >= start
    assert rung.empty()
    alarm.set(loop.time())
    await asyncio.wait_for(rung.get(), 5)


async def test_no_deadline_means_no_ring() -> None:
    loop = asyncio.get_running_loop()
    rung: list[str] = []
    alarm, witness = Alarm(lambda: rung.append("alarm")), asyncio.Event()
    alarm.set(loop.time())
    alarm.set(None)
    loop.call_at(loop.time() + 0.01, witness.set)
    await witness.wait()
    assert rung == []

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial

import pytest

from logship.threads import DaemonThreads, IdleExecutor, IdleThread, run_to_the_end
from tests.support.refused_threads import refuse_next_thread
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


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


async def test_a_thread_ends_when_nothing_comes_and_begins_anew_when_something_does() -> None:
    thread = IdleThread("ends", idle_seconds=0.01)
    for _ in range(2):
        done = threading.Event()
        thread.submit(done.set)
        await until(done.is_set, "the work is done")
        await until(lambda: "ends" not in names(), "the thread has ended")
    thread.close()


def test_all_work_is_done_in_order_however_close_it_comes_to_a_threads_end() -> None:
    thread = IdleThread("hurries", idle_seconds=0.0)  # ends whenever it finds nothing
    done: list[int] = []
    for number in range(3000):
        thread.submit(partial(done.append, number))
    thread.close()
    assert done == list(range(3000))
    assert "hurries" not in names()


async def test_an_executor_of_one_gives_results_and_errors_and_ends_in_order() -> None:
    executor = IdleExecutor("one")
    gate = threading.Event()
    held = executor.submit(gate.wait, 10)
    dropped, kept = executor.submit(names), executor.submit(names)
    assert dropped.cancel()
    gate.set()
    assert await asyncio.wrap_future(held)
    assert (await asyncio.wrap_future(kept)).count("one") == 1
    with pytest.raises(ZeroDivisionError):
        await asyncio.get_running_loop().run_in_executor(executor, lambda: 1 // 0)
    last = executor.submit(names)
    executor.shutdown()
    assert last.done()
    with pytest.raises(RuntimeError):
        executor.submit(names)


async def test_no_more_requests_run_at_a_time_than_allowed_and_in_order() -> None:
    threads = DaemonThreads(2, "two")
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


async def test_a_request_that_raises_ends_no_thread_for_the_others() -> None:
    def fail() -> None:
        raise OSError("it broke")

    threads = DaemonThreads(1, "one")
    broken, sound = threads.submit(fail), threads.submit(lambda: 7)
    with pytest.raises(OSError, match="it broke"):
        await asyncio.wrap_future(broken)
    assert await asyncio.wrap_future(sound) == 7


@pytest.mark.parametrize("make", [IdleExecutor, partial(DaemonThreads, 1)])
async def test_a_thread_that_could_not_be_started_once_fails_who_asked_and_nobody_after(
    make: Callable[[str], Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = make("late")
    refuse_next_thread(monkeypatch, "late")
    done: list[int] = []
    with pytest.raises(RuntimeError, match="can't start"):
        executor.submit(done.append, 1)
    async with asyncio.timeout(10):
        await asyncio.wrap_future(executor.submit(done.append, 2))
    assert done == [2]


async def test_where_no_further_thread_can_be_started_those_that_run_do_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = DaemonThreads(2, "late")
    running, gate = threading.Event(), threading.Event()

    def work() -> bool:
        running.set()
        return gate.wait(10)

    first = executor.submit(work)
    await until(running.is_set, "the work began")
    refuse_next_thread(monkeypatch, "late")
    second = executor.submit(threading.get_ident)
    gate.set()
    async with asyncio.timeout(10):
        assert await asyncio.wrap_future(first)
        await asyncio.wrap_future(second)

"""The store of an instance, when who opens it is ended in the middle."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from applier.operations.instance import Instance
from applier.store import Store
from logship.errors import Code, LogshipError
from tests.support.link_frames import SEGMENT_BYTES, hello
from tests.support.waiting import until
from tests.unit.applier.operations.conftest import Listener


async def test_a_store_that_is_opened_when_its_instance_is_ended_keeps_no_lock(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    await instance.hello(hello(flush_lsn=9 * SEGMENT_BYTES), listener)
    opened, go_on = threading.Event(), threading.Event()
    real_open = Store.open

    def slow_open(*arguments: Any, **options: Any) -> Store:
        store = real_open(*arguments, **options)
        opened.set()
        assert go_on.wait(30.0)
        return store

    store = instance.keeping.opened
    with monkeypatch.context() as patched:
        patched.setattr(Store, "open", slow_open)
        instance.keeping.refused(store, LogshipError(Code.STORE_FAILED, "the disk"))
        await until(opened.is_set, "it is opened again")
        # As `applier remove --keep-data` does.
        ending = asyncio.create_task(instance.host.finish_work_of(instance.name))
        await asyncio.sleep(0)  # it has begun
        go_on.set()
        await ending
    await instance.close()
    await instance.open()
    assert instance.store is not None


async def test_who_is_ended_while_it_closes_a_store_lets_go_of_the_lock_first(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    await instance.hello(hello(flush_lsn=9 * SEGMENT_BYTES), listener)
    closing, go_on = threading.Event(), threading.Event()
    store = instance.keeping.opened
    real_close = store.close

    def slow_close() -> None:
        closing.set()
        assert go_on.wait(30.0)
        real_close()

    monkeypatch.setattr(store, "close", slow_close)
    instance.keeping.refused(store, LogshipError(Code.STORE_FAILED, "the disk"))
    await until(closing.is_set, "it is closed")
    ending = asyncio.create_task(instance.host.finish_work_of(instance.name))
    done, _ = await asyncio.wait([ending], timeout=0.05)
    assert not done
    go_on.set()
    await ending
    await instance.close()
    await instance.open()
    assert instance.store is not None

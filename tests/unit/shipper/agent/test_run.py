"""The shipper as a process."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from logship.durable import RealDisk
from logship.errors import Code, RefusedError
from logship.settings import parse_settings
from shipper.agent import run
from shipper.settings import ShipperSettings


def settings_in(directory: Path) -> ShipperSettings:
    return parse_settings(
        f'instance = "main"\nstate_directory = "{directory}"\n[primary]\n'
        f'conninfo = "host={directory}"\n[bucket]\nurl = "file://{directory}/bucket"\n',
        ShipperSettings,
        file=Path("shipper.toml"),
    )


def test_a_state_directory_that_another_process_uses_is_left_alone(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    directory = settings.instance_directory
    directory.mkdir(parents=True)
    (directory / "epoch.json").write_text("{}")
    lock = RealDisk().lock(directory / "lock")
    try:
        with pytest.raises(RefusedError) as caught:
            run(settings)
    finally:
        os.close(lock)
    assert caught.value.code is Code.INSTANCE_BUSY
    assert {each.name for each in directory.iterdir()} == {"epoch.json", "lock"}
    assert not (tmp_path / "bucket").exists()


class LeavesWork:
    """An agent that ends while a thread still works, which then asks for the lock."""

    def __init__(self, lock: Path) -> None:
        self.was_locked = False
        self._lock = lock
        self._has_ended = threading.Event()

    async def run(self, stop: asyncio.Event) -> None:
        asyncio.get_running_loop().run_in_executor(None, self._work)
        self._task = asyncio.create_task(self._wait_for_the_end())
        await asyncio.sleep(0)

    async def _wait_for_the_end(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self._has_ended.set()  # what ran the agent is over, and asyncio cancels the rest

    def _work(self) -> None:
        assert self._has_ended.wait(60)
        try:
            os.close(RealDisk().lock(self._lock))
        except BlockingIOError:
            self.was_locked = True

    def health_report(self, instance: str) -> dict[str, Any]:
        return {}


def test_the_state_directory_is_another_processs_once_no_thread_works_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    lock = settings.instance_directory / "lock"
    agent = LeavesWork(lock)
    module = importlib.import_module("shipper.agent.run")
    monkeypatch.setattr(module, "_agent", lambda *args, **options: agent)
    run(settings)
    assert agent.was_locked
    os.close(RealDisk().lock(lock))

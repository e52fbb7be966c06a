"""The version check of an instance when what is installed changes under it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from applier.compat import Verdict
from applier.operations.compat_report import compat_report
from applier.operations.instance import Instance
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.postgres.installations import Installation
from tests.support.link_frames import hello, profile
from tests.support.waiting import until
from tests.unit.applier.operations.conftest import Listener

REMOVED = Installation(Path("/nowhere/bin"), 170010, "configured")


async def test_a_server_whose_programs_were_removed_stays_as_it_was_checked(
    instance: Instance, listener: Listener
) -> None:
    """The day the primary dies may be the day after somebody cleaned up."""
    await instance.hello(hello(), listener)
    check = instance.following._version_check
    check.installation, check.verdict = REMOVED, Verdict(())
    await check.look(instance.following._layout(), seeded=False, runs=True)
    assert check.passes
    assert instance.alarms.has(Code.NO_INSTALLATION)
    (alarm,) = [one for one in instance.alarms.as_list() if one["code"] == "no-installation"]
    assert "was removed from /nowhere/bin" in alarm["what"]

    # Of a primary that changed since, nothing was checked: its WAL is held.
    await instance.remember(profile=profile(max_connections=300))
    await check.look(instance.following._layout(), seeded=False, runs=True)
    assert not check.passes


async def test_of_an_unknown_primary_or_installation_nothing_is_reported(
    instance: Instance, listener: Listener
) -> None:
    with pytest.raises(RefusedError) as refused:
        await compat_report(instance)
    assert refused.value.code is Code.COMPATIBILITY
    await instance.hello(hello(), listener)
    instance.host.installations = [REMOVED]
    for wanted in ("16", "17.9", "/nowhere/else", "nowhere"):
        with pytest.raises(UsageError, match="there is no PostgreSQL") as wrong:
            await compat_report(instance, wanted)
        assert "17.10 in /nowhere/bin" in wrong.value.hint


async def test_who_asks_nothing_new_does_not_wait_for_an_installation_that_hangs(
    instance: Instance, listener: Listener, shared_tmp_path: Path
) -> None:
    """A promotion compares first, and must not wait for another major's package."""
    await instance.hello(hello(), listener)
    programs, began = shared_tmp_path / "bin", shared_tmp_path / "began"
    programs.mkdir()
    began.mkdir(mode=0o777)
    began.chmod(0o777)
    for name in ("postgres", "initdb"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {began}/it\nexec sleep 60\n")
        (programs / name).chmod(0o755)
    check, layout = instance.following._version_check, instance.following._layout()
    hangs = Installation(programs, 180000, "configured")
    asking = asyncio.create_task(check.compare(hangs, layout, seeded=False))
    await until((began / "it").exists, "it is asked")
    with pytest.raises(LogshipError, match="is gone"):
        await asyncio.wait_for(check.compare(REMOVED, layout, seeded=False), 5)
    asking.cancel()
    await asyncio.wait({asking})

"""The demo's steps, in order."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import psycopg

from logship.errors import Code, LogshipError
from logship.status import InstanceStatus
from shipper.commands.demo.outcome import Outcome
from shipper.commands.demo.site import INSTANCE, Site, find_installation, server_account
from shipper.commands.demo.writers import CREATE_LEDGER, Writers, read_ledger

SEED_SECONDS = 30.0


class Narrator:
    """Prints each step as it happens, unless the result is wanted alone."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._started_at = time.monotonic()

    def say(self, what: str) -> None:
        if not self._quiet:
            print(f"{time.monotonic() - self._started_at:6.1f} s  {what}", flush=True)


async def tell(
    *,
    major: int | None,
    protection: str,
    transport: str,
    seconds: float,
    configured: Sequence[Path],
    quiet: bool,
) -> Outcome:
    """Run the whole demo; everything that was started is gone when this returns or raises.

    Raises LogshipError when a step fails, KeyboardInterrupt after Ctrl-C, CancelledError
    after SIGTERM.
    """
    task = asyncio.current_task()
    assert task is not None
    # Being ended from outside must leave nothing behind either.
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        narrator = Narrator(quiet=quiet)
        run_as = server_account()
        installation = await _to_its_end(find_installation, configured, major, run_as)
        narrator.say(
            f"PostgreSQL {installation.version}, protection {protection}, transport {transport}"
        )
        site = Site(installation, run_as, protection, transport)
        try:
            return await _tell(site, narrator, seconds)
        finally:
            narrator.say("stopping everything and removing it")
            await _to_its_end(site.close)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


_P = ParamSpec("_P")
_T = TypeVar("_T")


async def _to_its_end(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run `work` in a thread; cancelled, wait for its end first, however often it happens.

    What a thread starts after everything was stopped would stay behind.
    """
    working = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    cancelled = False
    while not working.done():
        try:
            await asyncio.wait({working})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        # Being stopped is the news, whatever became of the work.
        working.exception()
        raise asyncio.CancelledError
    return working.result()


async def _tell(site: Site, narrator: Narrator, seconds: float) -> Outcome:
    await _to_its_end(site.start_primary)
    narrator.say("the primary runs")
    async with await psycopg.AsyncConnection.connect(site.conninfo(), autocommit=True) as admin:
        await admin.execute(CREATE_LEDGER)
    if site.transport == "s3":
        await _to_its_end(site.start_s3_server)
        narrator.say("an S3 server runs; shipper and applier will know of each other only by it")
    await _to_its_end(site.start_processes)
    narrator.say("applier and shipper run; the standby is being seeded")
    status = await site.wait_for("standby that follows", SEED_SECONDS, _follows)
    standby = status["standby"]
    narrator.say(f"the standby follows: PostgreSQL {standby['version']}, port {standby['port']}")
    if site.protection == "sync":
        await _to_its_end(site.make_commits_wait)
        await site.wait_for("synchronous protection", SEED_SECONDS, partial(_is_sync, site))
        narrator.say("the primary confirms: commits wait for the recovery server")
    writers = Writers(site.conninfo())
    try:
        writers.start()
        narrator.say(f"{writers_text(site)} for {seconds:g} s")
        await asyncio.sleep(seconds)
        await _to_its_end(site.kill_primary)
        await writers.wait_cut_off()
    finally:
        await writers.cancel()
    await site.wait_fetched()
    count = len(writers.acknowledged)
    if count == 0:
        raise LogshipError(
            Code.CHECK_FAILED,
            "no transaction was acknowledged before the primary was killed, so nothing was "
            f"shown: {writers.last_words}",
            "write for longer: --seconds; if it stays so, the machine is too busy",
        )
    narrator.say(f"SIGKILL to the primary in mid-write: {count} transactions acknowledged")
    record = await asyncio.to_thread(_promote, site, narrator)
    found = await read_ledger(site.standby_conninfo())
    narrator.say("compared what was acknowledged with what is there")
    recovered = len(writers.acknowledged & found)
    return Outcome(
        postgres=site.installation.version,
        protection=site.protection,
        acknowledged=count,
        recovered=recovered,
        lost=count - recovered,
        transfer_gap_bytes=record["lost_bytes"],
        promote_seconds=round(record["promote_seconds"], 3),
        first_write_seconds=round(record["first_write_seconds"], 3),
    )


def writers_text(site: Site) -> str:
    how = "waiting for the recovery server" if site.protection == "sync" else "not waiting"
    return f"concurrent writers commit ({how})"


def _promote(site: Site, narrator: Narrator) -> dict[str, Any]:
    for event in site.client.promote(INSTANCE):
        if "result" in event:
            result: dict[str, Any] = event["result"]
            narrator.say(f"promoted; lost: {result['lost']}")
            return result
        if "step" in event:
            narrator.say(f"promote: {event['step']}")
    raise LogshipError(Code.PROMOTE_FAILED, "the promotion ended without a result")


def _follows(status: InstanceStatus) -> bool:
    gap = status["apply_gap"]["bytes"]
    return status["phase"] == "following" and gap is not None and gap < 1 << 20


def _is_sync(site: Site, status: InstanceStatus) -> bool:
    if site.transport == "s3":
        # Nobody tells an applier through a bucket what the primary thinks of its shipper.
        return site.commits_wait()
    return status["protection"]["in_effect"] in ("sync", "quorum")

"""The demo's steps, in order; what is done with each cluster is done with all at once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import psycopg

from logship.errors import Code, LogshipError
from logship.status import InstanceStatus
from shipper.commands.demo.cluster import Cluster
from shipper.commands.demo.outcome import Outcome
from shipper.commands.demo.site import Site, find_installations, server_account
from shipper.commands.demo.writers import CREATE_LEDGER, Writers, read_ledger

SEED_SECONDS = 90.0
"""For each cluster.  Ten do on an idle machine; a process that ends is told at once."""


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
    count: int = 1,
) -> dict[str, Outcome]:
    """Run the whole demo with `count` clusters; returns what came of each, by its name.
    Everything that was started is gone when this returns or raises.

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
        installations = await _to_its_end(find_installations, configured, major, count, run_as)
        versions = ", ".join(each.version for each in installations)
        narrator.say(f"PostgreSQL {versions}, protection {protection}, transport {transport}")
        site = Site(installations, run_as, protection, transport)
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


async def _all_at_once(work: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Do all of it; the first that fails cancels the rest, and is raised when that has ended."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        # Cancelled again, it still waits for them all.
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _tell(site: Site, narrator: Narrator, seconds: float) -> dict[str, Outcome]:
    stories = [_Story(site, cluster, narrator) for cluster in site.clusters]
    await _all_at_once([each.begin() for each in stories])
    if site.transport == "s3":
        await _to_its_end(site.start_s3_server)
        narrator.say("an S3 server runs; shipper and applier will know of each other only by it")
    await _to_its_end(site.start_processes)
    narrator.say(
        "applier and shipper run; the standby is being seeded"
        if len(stories) == 1
        else "one applier and the shippers run; the standbys are being seeded"
    )
    await _all_at_once([each.protect() for each in stories])
    try:
        for story in stories:
            story.writers.start()
        narrator.say(f"{writers_text(site)} for {seconds:g} s")
        await asyncio.sleep(seconds)
        await _all_at_once([each.lose() for each in stories])
    finally:
        for story in stories:
            await story.writers.cancel()
    for story in stories:
        await site.wait_fetched(story.cluster)
        story.check_something_was_written()
    records = await _all_at_once([each.promote() for each in stories])
    outcomes = {
        story.cluster.name: await story.compare(record)
        for story, record in zip(stories, records, strict=True)
    }
    narrator.say("compared what was acknowledged with what is there")
    return outcomes


class _Story:
    """What happens to one cluster."""

    def __init__(self, site: Site, cluster: Cluster, narrator: Narrator) -> None:
        self.cluster = cluster
        self.writers = Writers(cluster.conninfo())
        self._site = site
        self._narrator = narrator

    def _say(self, what: str) -> None:
        alone = len(self._site.clusters) == 1
        self._narrator.say(what if alone else f"{self.cluster.name}: {what}")

    async def begin(self) -> None:
        cluster = self.cluster
        await _to_its_end(cluster.start)
        self._say("the primary runs")
        async with await psycopg.AsyncConnection.connect(
            cluster.conninfo(), autocommit=True
        ) as admin:
            await admin.execute(CREATE_LEDGER)

    async def protect(self) -> None:
        """Up to a standby that follows and, under `sync`, is waited for."""
        site, cluster = self._site, self.cluster
        seconds = SEED_SECONDS * len(site.clusters)
        status = await site.wait_for(cluster, "standby that follows", seconds, _follows)
        standby = status["standby"]
        self._say(f"the standby follows: PostgreSQL {standby['version']}, port {standby['port']}")
        if site.protection == "sync":
            await _to_its_end(cluster.make_commits_wait)
            is_sync = partial(_is_sync, site, cluster)
            await site.wait_for(cluster, "synchronous protection", seconds, is_sync)
            self._say("the primary confirms: commits wait for the recovery server")

    async def lose(self) -> None:
        await _to_its_end(self.cluster.kill)
        await self.writers.wait_cut_off()

    def check_something_was_written(self) -> None:
        count = len(self.writers.acknowledged)
        if count == 0:
            raise LogshipError(
                Code.CHECK_FAILED,
                "no transaction was acknowledged before the primary was killed, so nothing was "
                f"shown: {self.writers.last_words}",
                "write for longer: --seconds; if it stays so, the machine is too busy",
            )
        self._say(f"SIGKILL to the primary in mid-write: {count} transactions acknowledged")

    async def promote(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._promote)

    def _promote(self) -> dict[str, Any]:
        for event in self._site.client.promote(self.cluster.name):
            if "result" in event:
                result: dict[str, Any] = event["result"]
                self._say(f"promoted; lost: {result['lost']}")
                return result
            if "step" in event:
                self._say(f"promote: {event['step']}")
        raise LogshipError(Code.PROMOTE_FAILED, "the promotion ended without a result")

    async def compare(self, record: dict[str, Any]) -> Outcome:
        acknowledged = self.writers.acknowledged
        found = await read_ledger(self._site.standby_conninfo(self.cluster))
        recovered = len(acknowledged & found)
        return Outcome(
            postgres=self.cluster.installation.version,
            protection=self._site.protection,
            acknowledged=len(acknowledged),
            recovered=recovered,
            lost=len(acknowledged) - recovered,
            transfer_gap_bytes=record["lost_bytes"],
            promote_seconds=round(record["promote_seconds"], 3),
            first_write_seconds=round(record["first_write_seconds"], 3),
        )


def writers_text(site: Site) -> str:
    how = "waiting for the recovery server" if site.protection == "sync" else "not waiting"
    return f"concurrent writers commit ({how})"


def _follows(status: InstanceStatus) -> bool:
    gap = status["apply_gap"]["bytes"]
    return status["phase"] == "following" and gap is not None and gap < 1 << 20


def _is_sync(site: Site, cluster: Cluster, status: InstanceStatus) -> bool:
    if site.transport == "s3":
        # Nobody tells an applier through a bucket what the primary thinks of its shipper.
        return cluster.commits_wait()
    return status["protection"]["in_effect"] in ("sync", "quorum")

"""`shipper demo`: what it shows, and that nothing of it stays, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import tempfile
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from shipper.commands.demo import EXIT_TERMINATED, story
from shipper.commands.demo.outcome import Outcome
from shipper.commands.demo.site import CACHE_VARIABLE, Site, find_installations, server_account
from shipper.commands.demo.story import tell
from tests.integration.command_runner import start
from tests.support.installations import MAJORS, cache_directory, postgres_dir
from tests.support.processes import processes_below, shared_memory_segments
from tests.support.waiting import until

pytestmark = pytest.mark.integration

TIMEOUT_SECONDS = 200


class Place:
    """The temporary directory of one test's demos."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {"TMPDIR": str(directory), CACHE_VARIABLE: str(cache_directory())}

    async def demo(self, *arguments: str) -> asyncio.subprocess.Process:
        # Long enough that the writers of each cluster commit something on a busy machine, too.
        return await start(
            "shipper", "demo", "--seconds", "3", *arguments, environment=self.environment
        )

    async def is_clean(self) -> None:
        assert list(self.directory.iterdir()) == []
        # The children of a server that was killed take a moment to notice.
        await until(lambda: not processes_below(self.directory), "no process is left", 60)


@pytest.fixture
def place(shared_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(tempfile, "tempdir", str(shared_tmp_path))
    return Place(shared_tmp_path)


@pytest.mark.parametrize(
    ("protection", "major", "transport"),
    [("sync", 16, "link"), ("async", 18, "link"), ("sync", 17, "s3"), ("async", 18, "s3")],
)
async def test_it_shows_what_was_acknowledged_and_what_is_there(
    place: Place, protection: str, major: int, transport: str
) -> None:
    demo = await place.demo(
        *("--json", "--protection", protection, "--postgres", str(major)),
        *("--transport", transport),
    )
    async with asyncio.timeout(TIMEOUT_SECONDS):
        out, err = await demo.communicate()
    assert (demo.returncode, err) == (0, b"")
    shown = json.loads(out)
    assert shown.keys() == {*Outcome._fields, "verdict"}
    assert shown["protection"] == protection
    assert shown["postgres"].startswith(f"{major}.")
    assert shown["acknowledged"] > 0
    assert shown["acknowledged"] == shown["recovered"] + shown["lost"]
    if protection == "sync":
        assert shown["lost"] == 0
    await place.is_clean()


async def test_three_majors_at_once_are_lost_and_promoted(place: Place) -> None:
    demo = await place.demo("--json", "--instances", "3", "--protection", "sync")
    async with asyncio.timeout(TIMEOUT_SECONDS):
        out, err = await demo.communicate()
    assert (demo.returncode, err) == (0, b"")
    shown = json.loads(out)
    assert shown.keys() == {"instances"}
    assert len(shown["instances"]) == 3
    majors = {one["postgres"].split(".")[0] for one in shown["instances"]}
    assert len(majors) == 3, "one of each"
    for one in shown["instances"]:
        assert one.keys() == {*Outcome._fields, "verdict"}
        assert one["acknowledged"] == one["recovered"] > 0
        assert one["lost"] == 0
    await place.is_clean()


@pytest.mark.parametrize(
    ("moment", "instances"),
    [
        ("PostgreSQL", "1"),  # initdb and the primary's start run in a thread
        ("the primary runs", "2"),  # the other one's may still be in its thread
        ("applier and shipper run", "1"),  # a seed is under way
        ("concurrent writers", "1"),
        ("promote:", "1"),
        ("stopping everything", "1"),
    ],
)
async def test_nothing_stays_when_it_is_ended_from_outside(
    place: Place, moment: str, instances: str
) -> None:
    demo = await place.demo("--instances", instances)
    assert demo.stdout is not None
    async with asyncio.timeout(TIMEOUT_SECONDS):
        async for line in demo.stdout:
            if moment in line.decode():
                break
        else:
            raise AssertionError(f"it never said {moment!r}")
        # Twice: who ends a process by hand does so again when it takes its time.
        demo.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        with contextlib.suppress(ProcessLookupError):
            demo.send_signal(signal.SIGTERM)
        _, err = await demo.communicate()
    # The second may come when all is done and the interpreter ends: a shell shows the same.
    assert demo.returncode in (EXIT_TERMINATED, -signal.SIGTERM)
    assert err == b""
    await place.is_clean()


async def test_nothing_acknowledged_is_not_nothing_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "CREATE_LEDGER", "select 1")
    with pytest.raises(LogshipError) as caught:
        await tell(
            major=17,
            protection="async",
            transport="link",
            seconds=1,
            configured=[cache_directory()],
            quiet=True,
        )
    assert caught.value.code is Code.CHECK_FAILED
    assert "ledger" in caught.value.what, "what the writers met"
    await place.is_clean()


async def test_an_error_in_a_step_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "SEED_SECONDS", 0.3)
    with pytest.raises(LogshipError, match="no standby that follows"):
        await tell(
            major=17,
            protection="async",
            transport="link",
            seconds=1,
            configured=[cache_directory()],
            quiet=True,
        )
    await place.is_clean()


async def test_each_cluster_is_of_a_major_of_its_own_while_there_are_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(cache_directory()))

    def majors(wanted: int | None, count: int) -> list[int]:
        return [each.major for each in find_installations([], wanted, count, server_account())]

    every = await asyncio.to_thread(majors, None, len(MAJORS) + 1)
    newest_first = sorted(MAJORS, reverse=True)
    assert every == [*newest_first, newest_first[0]]
    assert await asyncio.to_thread(majors, 16, 2) == [16, 16]


async def test_the_shared_memory_of_the_killed_primary_is_removed(place: Place) -> None:
    run_as = server_account()
    installations = await asyncio.to_thread(
        find_installations, [postgres_dir(17).parent], 17, 1, run_as
    )
    site = Site(installations, run_as, "async")
    (cluster,) = site.clusters
    await asyncio.to_thread(cluster.start)
    postmaster = (cluster.directory / "data" / "postmaster.pid").read_text()
    segment = postmaster.splitlines()[6].split()[1]
    assert segment in shared_memory_segments()
    await asyncio.to_thread(cluster.kill)
    await asyncio.to_thread(site.close)
    # It is there until the last of the killed processes has ended.
    await until(lambda: segment not in shared_memory_segments(), "it is removed")
    await place.is_clean()

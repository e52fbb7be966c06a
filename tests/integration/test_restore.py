"""Restoring a recorded history to moments of it, against the history's own journal."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from applier.restore.opening import Places, open_from_settings
from applier.restore.restoring import Machine, OpenMode, Place, restore
from applier.restore.sources import Sources
from applier.restore.targets import Target, shown_time
from applier.settings import ApplierSettings, load_applier_settings
from logship.errors import Code, LogshipError, RefusedError
from logship.objects.directory import DirectoryStore
from logship.postgres.installations import discover
from logship.postgres.postmaster import remove_shared_memory
from logship.postgres.run_as import RunAs
from tests.conftest import _open_directory
from tests.support.clusters import ClusterTemplates
from tests.support.installations import cache_directory, postgres_dir, wheel_dir
from tests.support.processes import server_account
from tests.support.recorded import NAME, SETTINGS, Recorder, Recording
from tests.support.servers import PrimaryServer
from tests.support.waiting import free_port

pytestmark = pytest.mark.integration

MOMENTS = 20

_SETTINGS = """
directory = "{directory}/applier"
[link]
secret_key_file = "{directory}/none.key"
[api]
socket = "{directory}/applier.sock"
[postgres]
installations = ["{cache}"]
run_as = "{run_as}"
[store]
keep_free_mb = 1
[standby]
shared_buffers_mb = 16
[instances.main]
public_key = "{key}"
port = {port}
"""


class Site:
    """A recovery host with a recording's WAL in store and bucket, and its seeds."""

    def __init__(self, directory: Path, recording: Recording) -> None:
        self.directory = directory
        self.recording = recording
        self.bucket = DirectoryStore(directory / "bucket")
        account = server_account()
        self.settings_file = directory / "applier.toml"
        self.settings_file.write_text(
            _SETTINGS.format(
                directory=directory,
                cache=cache_directory(),
                run_as=account.pw_name if account is not None else "",
                key="a" * 40,
                port=free_port(),
            )
        )
        self.restored: list[Path] = []
        self._machine: Machine | None = None

    @property
    def settings(self) -> ApplierSettings:
        return load_applier_settings(self.settings_file)

    @property
    def instance_directory(self) -> Path:
        return self.directory / "applier" / "instances" / NAME

    @property
    def bucket_url(self) -> str:
        return f"file://{self.directory}/bucket"

    def sources(self, *, bucket: bool = False, timeline: int | None = None) -> Sources:
        places = Places(
            bucket_url=self.bucket_url if bucket else "",
            seed_directories=[self.directory / "seeds"],
            timeline=timeline,
        )
        return open_from_settings(self.settings, NAME, places, self.directory / "spool")

    async def restore(
        self, target: Target, *, bucket: bool = False, open_mode: OpenMode = "promote"
    ) -> Restored:
        sources = await asyncio.to_thread(self.sources, bucket=bucket)
        into = self.directory / f"restored-{len(self.restored)}"
        self.restored.append(into)
        run_as = RunAs.of(self.settings.postgres.run_as or None)
        if self._machine is None:
            found = discover([cache_directory()], run_as=run_as)
            self._machine = Machine(found, run_as, self.directory / "installations")
        place = Place(into, free_port(), open_mode, shared_buffers_mb=16)
        try:
            window = await asyncio.to_thread(sources.window)
            result = await restore(
                sources, window, target, place, self._machine, lambda _step, _facts: None
            )
        finally:
            sources.close()
        return Restored(result)

    async def refused(self, target: Target, **options: Any) -> LogshipError:
        with pytest.raises(RefusedError) as caught:
            await self.restore(target, **options)
        assert not self.restored[-1].exists()
        assert caught.value.code is Code.TARGET_UNREACHABLE
        return caught.value

    def end_servers(self) -> None:
        for into in self.restored:
            data = into / "data"
            if (data / "postmaster.pid").exists():
                pid = int((data / "postmaster.pid").read_text().split()[0])
                subprocess.run(["kill", "-QUIT", str(pid)], check=False)
                wait_for_end(pid)
                remove_shared_memory(data)
            shutil.rmtree(into, ignore_errors=True)


def wait_for_end(pid: int) -> None:
    subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], check=False, timeout=30)


class Restored:
    """A restored server, which runs."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        result = self.result
        with psycopg.connect(
            host=result["socket_directory"],
            port=result["port"],
            user=result["superuser"],
            dbname="postgres",
            autocommit=True,
        ) as connection:
            return connection.execute(sql.encode()).fetchall()

    def rows(self) -> set[tuple[int, int]]:
        return {(row[0], row[1]) for row in self.ask("SELECT writer, number FROM events")}

    def stop(self) -> None:
        """As it was said to be stopped, by the user who runs it."""
        command = self.result["stop_command"].split()
        subprocess.run(
            [
                "setpriv",
                f"--reuid={self.result['run_as']}",
                "--clear-groups",
                *command,
                "-m",
                "fast",
            ]
            if server_account() is not None
            else [*command, "-m", "fast"],
            check=True,
            capture_output=True,
            timeout=60,
        )


def make_server(directory: Path, major: int) -> PrimaryServer:
    directory.mkdir()
    directory.chmod(0o755)
    templates = ClusterTemplates(directory)
    server = PrimaryServer.create(
        wheel_dir() if major == 18 else postgres_dir(major),
        directory / "primary",
        wal_segsize_mb=1,
        settings=SETTINGS,
        templates=templates,
    )
    server.start()
    return server


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    path = _open_directory()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module", params=[14, 18])
def recorded(request: pytest.FixtureRequest, place: Path) -> Iterator[Recording]:
    """Some seconds of three writers, two seeds, named points, and quiet at the end."""
    server = make_server(place / f"site-{request.param}", request.param)
    try:
        recorder = Recorder(server, place / f"site-{request.param}" / "seeds")
        recorder.work(0.3)
        recorder.seed()
        recorder.point("after the first seed")
        recorder.work(1.5)
        recorder.points_until_one_crosses_a_page()
        recorder.point("twice")
        recorder.work(0.5)
        recorder.seed()
        server.execute("SELECT pg_switch_wal()")
        recorder.work(1.5)
        recorder.point("twice")
        yield recorder.finish()
    finally:
        server.destroy()


@pytest.fixture(scope="module")
def site(recorded: Recording) -> Iterator[Site]:
    """All of it in the store and in the bucket; heard of the primary a minute after its end."""
    site = Site(recorded.server.directory.parent, recorded)
    recorded.write_record(site.instance_directory, recorded.ended_at + 60)
    asyncio.run(recorded.fill_store(site.instance_directory))
    recorded.fill_bucket(site.bucket, seed=1)
    yield site


@pytest.fixture(autouse=True)
def no_servers_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("site", "holey", "switched"):
        if name in request.fixturenames:
            request.getfixturevalue(name).end_servers()


def moments(recorded: Recording, seed: int, count: int) -> list[int]:
    """Random ones, between the first seed's end and the last commit, not where it would depend
    on some microseconds of a busy machine which of two commits came first."""
    chosen = random.Random(seed)
    times = [row.time for row in recorded.rows]
    started = recorded.first_seed_at
    found: list[int] = []
    while len(found) < count:
        at = chosen.randrange(started, times[-1])
        if all(abs(at - each) > 300 for each in times):
            found.append(at)
    return found


async def test_each_moment_has_exactly_what_was_committed_by_then(
    site: Site, recorded: Recording
) -> None:
    major = recorded.profile.major
    count = MOMENTS if major == 18 else 4
    for number, at in enumerate(moments(recorded, major, count)):
        mode: OpenMode = "read-only" if number % 4 == 3 else "promote"
        restored = await site.restore(
            Target("time", time=at), bucket=number % 2 == 1, open_mode=mode
        )
        assert restored.rows() == recorded.expected_at(at), shown_time(at)
        assert restored.ask("SELECT count(*) FROM events WHERE writer < 0") == [(0,)]
        ((recovering,),) = restored.ask("SELECT pg_is_in_recovery()")
        assert recovering == (mode == "read-only")
        site.end_servers()

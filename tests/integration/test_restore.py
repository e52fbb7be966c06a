"""Restoring a recorded history to moments of it, against the history's own journal."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from applier.fleet.places import InstancePlaces
from applier.restore.opening import Places, hold_and_open
from applier.restore.restoring import Machine, OpenMode, Place, restore
from applier.restore.sources import Sources
from applier.restore.targets import LATEST, Target, parse_time, shown_time
from applier.retention.leases import running_restores
from applier.settings import ApplierSettings, load_applier_settings
from logship.errors import Code, LogshipError, RefusedError
from logship.lsn import Lsn
from logship.objects.directory import DirectoryStore
from logship.objects.encryption import Recipients, generate_identity
from logship.postgres.installations import discover
from logship.postgres.postmaster import remove_shared_memory
from logship.postgres.run_as import RunAs
from logship.rehearsal.engine.local import LocalEngine
from logship.rehearsal.plan import Database
from logship.rehearsal.site.copied import copy_of
from logship.rehearsal.site.primary import Primary
from logship.wal_records import record_end
from tests.integration.command_runner import run
from tests.support.clusters import ClusterTemplates
from tests.support.directories import open_directory
from tests.support.installations import cache_directory, postgres_dir, wheel_dir
from tests.support.processes import server_account
from tests.support.recorded import NAME, SETTINGS, Committed, Recorder, Recording
from tests.support.servers import PrimaryServer
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.integration

MOMENTS = 20

newest_only = pytest.mark.parametrize("recorded", [18], indirect=True)
"""For what does not depend on the major."""

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
        self.identity_file = directory / "identity"
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
            identity_files=[self.identity_file] if self.identity_file.exists() else [],
        )
        return hold_and_open(self.settings, NAME, places, self.directory / "spool")

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
        held: list[str] = []

        def look(step: str, _: dict[str, Any]) -> None:
            if step == "replay" and self.instance_directory.exists():
                held.extend(each.seed_id for each in running_restores(self.instance_directory))

        try:
            window = await asyncio.to_thread(sources.window)
            result = await restore(sources, window, target, place, self._machine, look)
        finally:
            sources.close()
        if self.instance_directory.exists():
            # Retention saw what it needed for as long as it needed it.
            assert held == [result["seed"]["seed"]]
            assert running_restores(self.instance_directory) == []
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
        """As it was said to be stopped, by whoever ran the command."""
        subprocess.run(
            f"{self.result['stop_command']} -m fast",
            shell=True,
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


def remove(server: PrimaryServer) -> None:
    """And all that is beside it: another worker's tests may have it made once more."""
    server.destroy()
    shutil.rmtree(server.directory.parent, ignore_errors=True)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    path = open_directory()
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
        remove(server)


@pytest.fixture(scope="module")
def site(recorded: Recording) -> Iterator[Site]:
    """All of it in the store, which is on a volume of its own, and in the bucket; heard of the
    primary a minute after its end."""
    site = Site(recorded.server.directory.parent, recorded)
    volume = str(site.directory / "volume")
    recorded.write_record(site.instance_directory, recorded.ended_at + 60, store_volume=volume)
    on_volume = InstancePlaces(site.directory / "applier", NAME).on(volume)
    asyncio.run(recorded.fill_store(on_volume))
    recorded.fill_bucket(site.bucket, seed=1)
    yield site


@pytest.fixture(autouse=True)
def no_servers_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("site", "switched"):
        if name in request.fixturenames:
            request.getfixturevalue(name).end_servers()


def moments(recorded: Recording, seed: int, count: int) -> list[int]:
    """Random ones, between the first seed's end and the last commit."""
    chosen = random.Random(seed)
    started, ended = recorded.first_seed_at, recorded.rows[-1].time
    found: list[int] = []
    while len(found) < count:
        at = chosen.randrange(started, ended)
        if not is_amid_a_commit(recorded, at):
            found.append(at)
    return found


def is_amid_a_commit(recorded: Recording, at: int) -> bool:
    """Whether a commit had its time then, and no answer yet.  On a busy machine one of a later
    time may be before it in the WAL, and there a restore stops."""
    return any(row.time <= at <= answered_at for row, answered_at in answers(recorded))


def alone(recorded: Recording) -> list[Committed]:
    """A row of each transaction between whose time and whose answer there was no other's, so
    that it is known what is before it and behind it in the WAL."""
    commits = list({row.xid: (row, answered_at) for row, answered_at in answers(recorded)}.values())
    return [
        one
        for one, answered_at in commits
        if not any(
            other.time <= answered_at and one.time <= other_answered_at
            for other, other_answered_at in commits
            if other is not one
        )
    ]


def answers(recorded: Recording) -> list[tuple[Committed, int]]:
    """Each row, in the order of time, with when its client heard that it is committed."""
    answered = {row: each.acknowledged_at for each in recorded.journal for row in each.rows}
    return [(row, answered[row.writer, row.number]) for row in recorded.rows]


# --- times ----------------------------------------------------------------------------------


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
        rows = restored.rows()
        assert rows == recorded.expected_at(at), shown_time(at)
        assert recorded.acknowledged_by(at) <= rows <= recorded.sent_by(at), shown_time(at)
        assert restored.ask("SELECT count(*) FROM events WHERE writer < 0") == [(0,)]
        ((recovering,),) = restored.ask("SELECT pg_is_in_recovery()")
        assert recovering == (mode == "read-only")
        site.end_servers()


async def test_the_time_of_a_commit_includes_it(site: Site, recorded: Recording) -> None:
    row = next(row for row in alone(recorded) if row.time > recorded.first_seed_at + 500_000)
    restored = await site.restore(Target("time", time=row.time))
    assert (row.writer, row.number) in restored.rows()
    assert restored.rows() == recorded.expected_at(row.time)
    assert restored.result["last_commit"] == shown_time(row.time)


async def test_on_a_quiet_database_the_last_state_is_that_of_any_later_moment(
    site: Site, recorded: Recording
) -> None:
    later = int((recorded.ended_at + 45) * 1e6)
    restored = await site.restore(Target("time", time=later))
    assert restored.rows() == recorded.expected_at(later)
    assert restored.rows() == recorded.acknowledged_by(later)
    assert "nothing was committed later" in restored.result["stopped_at"]


@newest_only
async def test_past_what_is_known_and_before_what_is_kept_is_refused_at_once(
    site: Site, recorded: Recording
) -> None:
    past = int((recorded.ended_at + 90) * 1e6)
    refusal = await site.refused(Target("time", time=past))
    assert "later than anything" in refusal.what
    assert shown_time(int((recorded.ended_at + 60) * 1e6)) in refusal.hint
    before = recorded.rows[0].time - 1000
    refusal = await site.refused(Target("time", time=before))
    assert "before the first moment" in refusal.what
    # What it names as the nearest can be restored.
    found = re.search(r"--to-time '([^']+)'", refusal.hint)
    assert found is not None
    nearest = parse_time(found[1])
    restored = await site.restore(Target("time", time=nearest))
    assert restored.rows() == recorded.expected_at(nearest)


# --- names and positions --------------------------------------------------------------------


async def test_a_restore_point_is_found_by_name_also_over_a_pages_end(
    site: Site, recorded: Recording
) -> None:
    crossing = next(point for point in recorded.points if point.crosses_a_page)
    for point, bucket in ((recorded.points[0], False), (crossing, True)):
        restored = await site.restore(Target("name", name=point.name), bucket=bucket)
        assert len(restored.rows()) == point.rows
        assert restored.result["lsn"] == str(point.end_lsn)
        site.end_servers()


@newest_only
async def test_names_that_are_not_there_or_not_one_are_refused(
    site: Site, recorded: Recording
) -> None:
    refusal = await site.refused(Target("name", name="nowhere"))
    assert "no restore point 'nowhere'" in refusal.what
    refusal = await site.refused(Target("name", name="twice"))
    listed = [str(point.end_lsn) for point in recorded.points if point.name == "twice"]
    assert len(listed) == 2
    assert all(each in refusal.what for each in listed)


@newest_only
async def test_an_lsn_is_restored_to_up_to_the_record_that_reaches_it(
    site: Site, recorded: Recording
) -> None:
    point = recorded.points[0]
    for lsn in (point.end_lsn, point.end_lsn - 8, point.end_lsn - 90):
        restored = await site.restore(Target("lsn", lsn=Lsn(lsn)))
        assert restored.result["lsn"] == str(point.end_lsn)
        assert len(restored.rows()) == point.rows
        site.end_servers()
    refusal = await site.refused(Target("lsn", lsn=Lsn(recorded.end + 1)))
    assert "past the end" in refusal.what
    refusal = await site.refused(Target("lsn", lsn=Lsn(recorded.start)))
    assert "before the first moment" in refusal.what


@newest_only
async def test_the_newest_fitting_seed_is_taken(site: Site, recorded: Recording) -> None:
    sources = await asyncio.to_thread(site.sources, bucket=True)
    try:
        (stretch,) = sources.window().stretches
    finally:
        sources.close()
    first, second = stretch.seeds
    early = await site.restore(Target("lsn", lsn=recorded.points[0].end_lsn))
    assert early.result["seed"]["seed"] == first.info.begin.seed_id
    latest = await site.restore(LATEST, open_mode="read-only")
    assert latest.result["seed"]["seed"] == second.info.begin.seed_id
    assert latest.result["lsn"] == str(record_end(recorded.end, recorded.line.segment_bytes))
    assert len(latest.rows()) == len(recorded.rows)


# --- what is left ---------------------------------------------------------------------------


@newest_only
async def test_what_is_restored_stands_alone(site: Site, recorded: Recording) -> None:
    restored = await site.restore(LATEST)
    shown = dict(
        restored.ask(
            "SELECT name, setting FROM pg_settings WHERE name IN ('archive_mode',"
            " 'primary_conninfo', 'primary_slot_name', 'max_logical_replication_workers')"
            " UNION ALL SELECT 'pg_cron', current_setting('cron.launch_active_jobs')"
        )
    )
    assert shown == {
        "archive_mode": "off",
        "primary_conninfo": "",
        "primary_slot_name": "",
        "max_logical_replication_workers": "0",
        "pg_cron": "off",
    }
    restored.ask("INSERT INTO events VALUES (9, 9, '') RETURNING 1")
    assert restored.result["opened_timeline"] == 2
    into = site.restored[-1]
    assert not (into / "wal").exists()
    assert not (site.directory / "spool").exists()
    restored.stop()
    assert not (into / "data" / "postmaster.pid").exists()


@newest_only
async def test_read_only_stays_where_it_is(site: Site, recorded: Recording) -> None:
    at = moments(recorded, 99, 1)[0]
    restored = await site.restore(Target("time", time=at), open_mode="read-only")
    # It was asked to pause, and does so when its startup process hears of it.
    state = "SELECT pg_get_wal_replay_pause_state()::text"
    await until(lambda: restored.ask(state) == [("paused",)], "it is paused")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        restored.ask("INSERT INTO events VALUES (9, 9, '') RETURNING 1")
    assert restored.rows() == recorded.expected_at(at)


# --- where it comes from --------------------------------------------------------------------


async def test_from_the_bucket_alone(recorded: Recording, site: Site) -> None:
    only = site.directory / "applier" / "instances"
    away = site.directory / "applier" / "away"
    only.rename(away)
    try:
        at = moments(recorded, 7, 1)[0]
        restored = await site.restore(Target("time", time=at), bucket=True)
    finally:
        away.rename(only)
    assert restored.rows() == recorded.expected_at(at)
    assert restored.result["fetched_bytes"] > 0


@newest_only
async def test_from_a_store_whose_hole_the_bucket_fills(
    recorded: Recording, site: Site, place: Path
) -> None:
    directory = place / f"holey-{recorded.profile.major}"
    directory.mkdir(mode=0o755)
    holey = Site(directory, recorded)
    (directory / "seeds").symlink_to(site.directory / "seeds")
    segment_bytes = recorded.line.segment_bytes
    sources = site.sources()
    (stretch,) = sources.window().stretches
    sources.close()
    # A segment between the first seed's end and the second's start.
    first, second = stretch.seeds
    hole = range(first.end_lsn + segment_bytes, first.end_lsn + 2 * segment_bytes)
    hole = range(*(lsn - lsn % segment_bytes for lsn in (hole.start, hole.stop)))
    assert hole.stop < second.info.start_lsn
    recorded.write_record(holey.instance_directory, recorded.ended_at)
    await recorded.fill_store(holey.instance_directory, missing=hole)
    try:
        refusal = await holey.refused(Target("lsn", lsn=Lsn(hole.start + segment_bytes // 2)))
        assert "hole" in refusal.what
        before = await asyncio.to_thread(holey.sources)
        window = before.window()
        before.close()
        assert window.stretches[0].wal.end == hole.start
        assert [(each.start, each.end) for each in window.lost] == [(hole.start, hole.stop)]
        last, following = window.stretches
        inside = (last.latest_time + following.earliest_time) // 2
        while is_amid_a_commit(recorded, inside):
            inside += 100
        refusal = await holey.refused(Target("time", time=inside))
        assert str(last.latest_lsn) in refusal.hint
        assert str(following.earliest_lsn) in refusal.hint
        recorded.fill_bucket(holey.bucket, seed=3, since=hole.start, until=hole.stop)
        restored = await holey.restore(Target("time", time=inside), bucket=True)
        assert restored.rows() == recorded.expected_at(inside)
        assert 0 < restored.result["fetched_bytes"] <= 2 * segment_bytes
    finally:
        holey.end_servers()


@newest_only
async def test_a_damaged_object_ends_it_and_is_named(
    recorded: Recording, place: Path, site: Site
) -> None:
    directory = place / "damaged"
    directory.mkdir(mode=0o755)
    damaged = Site(directory, recorded)
    (directory / "seeds").symlink_to(site.directory / "seeds")
    recorded.fill_bucket(damaged.bucket, seed=4)
    sources = await asyncio.to_thread(damaged.sources, bucket=True)
    (stretch,) = sources.window().stretches
    start = stretch.seeds[-1].info.start_lsn
    assert sources.kept.bucket is not None
    needed = [one for one in sources.kept.bucket.objects[1] if one.start > start]
    sources.close()
    path = directory / "bucket" / needed[1].key
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    try:
        with pytest.raises(LogshipError) as caught:
            await damaged.restore(LATEST, bucket=True)
        assert caught.value.code is Code.OBJECT_DAMAGED
        assert needed[1].key in caught.value.what
        assert not (damaged.restored[-1] / "data" / "postmaster.pid").exists()
    finally:
        damaged.end_servers()


@newest_only
async def test_from_an_encrypted_bucket_with_its_identity_only(
    recorded: Recording, place: Path, site: Site
) -> None:
    directory = place / "sealed"
    directory.mkdir(mode=0o755)
    sealed = Site(directory, recorded)
    (directory / "seeds").symlink_to(site.directory / "seeds")
    pair = generate_identity()
    recorded.fill_bucket(sealed.bucket, seed=6, recipients=Recipients([pair.recipient]))
    at = moments(recorded, 17, 1)[0]
    try:
        with pytest.raises(LogshipError) as caught:
            await sealed.restore(Target("time", time=at), bucket=True)
        assert caught.value.code is Code.IDENTITY_MISSING
        sealed.identity_file.write_text(pair.file_text)
        sealed.identity_file.chmod(0o600)
        restored = await sealed.restore(Target("time", time=at), bucket=True)
        assert restored.rows() == recorded.expected_at(at)
    finally:
        sealed.end_servers()


@pytest.fixture(scope="module", params=[14, 18])
def switched(request: pytest.FixtureRequest, place: Path) -> Iterator[Site]:
    """A history with a failover in the middle."""
    directory = place / f"switched-{request.param}"
    server = make_server(directory, request.param)
    try:
        recorder = Recorder(server, directory / "seeds")
        recorder.seed()
        # The first second of it may be before the first moment that can be restored.
        recorder.work(2.5)
        recorder.fail_over(directory / "standby")
        recorder.work(0.5)
        recording = recorder.finish()
        site = Site(directory, recording)
        recording.write_record(site.instance_directory, recording.ended_at)
        asyncio.run(recording.fill_store(site.instance_directory))
        recording.fill_bucket(site.bucket, seed=5)
        yield site
    finally:
        remove(server)


async def test_over_a_timeline_switch(switched: Site) -> None:
    recording = switched.recording
    rows = alone(recording)
    on_two = [row for row in rows if row.time > recording.forked_at]
    on_one = [row for row in rows if recording.first_seed_at < row.time < recording.forked_at]
    cases = [
        (on_two[len(on_two) // 2].time, 2, False),
        (on_two[len(on_two) // 3].time, 2, True),
        (on_one[-len(on_one) // 3].time, 1, True),
    ]
    for at, timeline, bucket in cases:
        restored = await switched.restore(Target("time", time=at), bucket=bucket)
        assert restored.rows() == recording.expected_at(at)
        assert restored.result["timeline"] == timeline
        assert restored.result["opened_timeline"] == timeline + 1
        switched.end_servers()


# --- the commands ---------------------------------------------------------------------------


@newest_only
async def test_the_commands_show_the_window_and_restore(site: Site, recorded: Recording) -> None:
    config = ("--config", site.settings_file, "--seeds", site.directory / "seeds")
    outcome = await run("applier", "window", NAME, *config)
    assert outcome.code == 0, outcome
    assert "the last commit" in outcome.out
    outcome = await run("applier", "window", NAME, "--json", *config)
    (stretch,) = outcome.document["stretches"]
    # Or of what was rolled back after it: that ends a transaction as well.
    assert stretch["latest_commit_time"] >= recorded.rows[-1].time / 1e6
    assert len(stretch["seeds"]) == 2
    into = site.directory / "restored-by-command"
    site.restored.append(into)
    at = moments(recorded, 42, 1)[0]
    to = ("--to-time", shown_time(at), "--into", into, "--from-bucket", site.bucket_url)
    outcome = await run(
        "applier", "restore", NAME, *to, "--port", str(free_port()), *config, "--json"
    )
    assert outcome.code == 0, outcome
    assert Restored(outcome.document).rows() == recorded.expected_at(at)
    assert 0 <= outcome.err.find("the last commit") < outcome.err.find("replay")
    # The directory is in use now.
    outcome = await run("applier", "restore", NAME, *to, *config, "--json")
    assert (outcome.code, outcome.document["error"]["code"]) == (3, "restore-failed")
    outcome = await run("applier", "restore", "other", "--latest", "--into", "/nowhere/x", *config)
    assert outcome.code == 2
    assert "nothing is kept" in outcome.err


# --- a copy to rehearse on ------------------------------------------------------------------


@newest_only
def test_a_rehearsal_starts_from_a_copy(site: Site, recorded: Recording) -> None:
    settings = site.directory / "rehearsing.toml"
    kept = f'[seeds]\ndirectory = "{site.directory}/seeds"\n'
    settings.write_text(site.settings_file.read_text() + kept)
    engine = LocalEngine()
    try:
        database = Database(rows=5, instance=NAME, applier_settings=settings)
        primary = Primary(engine.machine("primary", str(wheel_dir())), "rehearsed", database)
        with copy_of(database) as copied:
            assert copied is not None
            primary.create(copied)
        assert not copied.exists()
        (count,) = primary.sql("SELECT count(*) FROM events")
        assert count == [len(recorded.rows)]
        primary.stop()
    finally:
        engine.close()
    assert running_restores(site.instance_directory) == []


@newest_only
def test_a_copy_that_can_not_be_had_says_why(site: Site) -> None:
    database = Database(instance="other", applier_settings=site.settings_file)
    with (
        pytest.raises(LogshipError, match=r"other can't be copied: .*nothing is kept") as caught,
        copy_of(database),
    ):
        pass
    assert caught.value.code is Code.REHEARSAL_FAILED
    with copy_of(Database()) as copied:
        assert copied is None

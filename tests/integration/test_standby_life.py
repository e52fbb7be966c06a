"""A standby on real servers: configured, kept alive, adopted, opened.

It streams from the real primary here, in the place of the WAL server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import psycopg
import pytest

from applier.standby import (
    LifeState,
    Positions,
    Standby,
    StandbyLayout,
    StandbySettings,
    StandbyTablespaces,
    TablespaceNotes,
    prepare,
    session,
)
from applier.standby.files import StandbyFiles
from applier.standby.probes import IDLE_WAIT_EVENTS, NOT_PAUSED
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.postgres.control_file import read_control_file
from logship.postgres.installations import Installation
from logship.postgres.private_paths import PrivatePaths, why_not
from logship.postgres.process import Server
from logship.postgres.run_as import RunAs
from tests.conftest import PrimaryFactory
from tests.support.installations import MAJORS, all_majors
from tests.support.processes import give_to_server, make_server_directory, server_account
from tests.support.servers import PrimaryServer
from tests.support.waiting import free_port

pytestmark = pytest.mark.integration

INSTANCE = "orders"
WAIT_SECONDS = 30.0
ENDS_OF_MAJORS = pytest.mark.parametrize("major", (MAJORS[0], MAJORS[-1]))


class Site:
    """A recovery server's place for one standby of `primary`."""

    def __init__(self, primary: PrimaryServer, root: Path) -> None:
        self.primary = primary
        account = server_account()
        self.run_as = RunAs.of(account.pw_name if account else None)
        major = int((primary.data / "PG_VERSION").read_text())
        installation = Installation(primary.installation / "bin", major * 10000, "configured")
        self.control = read_control_file(primary.data)
        self.profile = self.control.profile(server_version_num=major * 10000, architecture="x86_64")
        home = root / INSTANCE / str(self.profile.incarnation)
        home.mkdir(parents=True)
        self.layout = StandbyLayout(home, root / "socket")
        self.server = Server(installation, self.layout.data, self.run_as)
        self.port = free_port()
        self._standbys: list[Standby] = []
        self.limits: list[str] = []
        """What was said of the kernel's."""

    def seed(self) -> None:
        """What a seed leaves: a base backup of the running primary."""
        self.primary.execute(f"create role {INSTANCE} login replication")
        self.primary._copy_data_to(self.layout.data)
        prepare(self.layout, self.run_as)

    def settings(self, **changes: object) -> StandbySettings:
        given: dict[str, object] = {
            "instance": INSTANCE,
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "wal_server_directory": self.primary.socket_directory,
            "wal_server_port": self.primary.port,
            "shared_buffers_mb": 16,
            **changes,
        }
        return StandbySettings(**given)  # type: ignore[arg-type]

    def standby(self, *, opened: bool = False, **changes: object) -> Standby:
        tablespaces = StandbyTablespaces(
            self.layout, self.run_as, TablespaceNotes(self.layout.incarnation_directory), lambda: ""
        )
        standby = Standby(
            self.settings(**changes),
            self.layout,
            self.server,
            self.profile,
            tablespaces,
            opened=opened,
            contain=lambda pid: self.limits.append(f"{pid} is held"),
            release=lambda: self.limits.append("none"),
        )
        self._standbys.append(standby)
        return standby

    def startup_waits_for(self) -> str | None:
        """The startup process's wait event."""
        with psycopg.connect(
            host=str(self.layout.socket_directory),
            port=self.port,
            user="postgres",
            client_encoding="utf8",
        ) as connection:
            row = connection.execute(
                "select wait_event from pg_stat_activity where backend_type = 'startup'"
            ).fetchone()
        return row[0] if row else None

    def sessions_of_ours(self) -> int:
        with psycopg.connect(
            host=str(self.layout.socket_directory), port=self.port, user="postgres"
        ) as connection:
            row = connection.execute(
                "select count(*) from pg_stat_activity where application_name = 'logship'"
            ).fetchone()
        return row[0] if row else -1

    async def destroy(self) -> None:
        for standby in self._standbys:
            await standby.close()
        self.server.stop("immediate")

    def connect_by_tcp(self) -> None:
        """As a client of the primary would: superuser by TCP."""
        psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres"
        ).close()


@pytest.fixture
async def site(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> AsyncIterator[Callable[[int], Site]]:
    made: list[Site] = []

    def make(major: int) -> Site:
        # Servers of one major know no encoding: names and positions are text all the same.
        encoding = "SQL_ASCII" if major == 16 else "UTF8"
        server = primary(major, initdb_args=("--encoding", encoding))
        site = Site(server, shared_tmp_path / "applier")
        made.append(site)
        return site

    yield make
    for one in made:
        await one.destroy()


@contextlib.asynccontextmanager
async def watched(standby: Standby) -> AsyncIterator[None]:
    task = asyncio.create_task(standby.watch())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(LogshipError):
            if await condition():
                return
        await asyncio.sleep(0.02)
    raise TimeoutError(f"still no {what}")


async def follows(standby: Standby, primary: PrimaryServer) -> Positions:
    """Wait until the standby replayed all that its primary has, and is idle."""
    wanted = Lsn.parse(primary.current_wal_lsn())
    found: list[Positions] = []

    async def caught_up() -> bool:
        found[:] = [await standby.positions()]
        return (found[0].replayed or 0) >= wanted and found[0].replay_idle

    await until(caught_up, f"replay up to {wanted}")
    return found[0]


async def running_as(standby: Standby, other_than_pid: int) -> int:
    async def runs() -> bool:
        status = standby.status()
        return status.state is LifeState.RUNNING and status.pid != other_than_pid

    await until(runs, "restart")
    pid = standby.status().pid
    assert pid is not None
    return pid


@all_majors
async def test_a_seed_follows_and_is_promoted(site: Callable[[int], Site], major: int) -> None:
    place = site(major)
    place.primary.execute("alter system set archive_mode = 'on'")
    place.primary.execute("alter system set work_mem = '7MB'")
    with (place.primary.data / "pg_hba.conf").open("a") as hba:
        hba.write("host all all 10.9.9.0/24 nosuchmethod\n")
    place.seed()
    standby = place.standby()
    await standby.ensure_started()

    async def waits(wait_event: str) -> bool:
        assert wait_event in IDLE_WAIT_EVENTS
        return place.startup_waits_for() == wait_event

    place.primary.execute("create table t as select 1 as x")
    before = await follows(standby, place.primary)
    assert (before.in_recovery, before.timeline) == (True, 1)
    assert before.replay_pause == NOT_PAUSED
    with pytest.raises(psycopg.OperationalError, match="pg_hba"):
        place.connect_by_tcp()
    with pytest.raises(LogshipError, match="not promoted"):
        await standby.admit_clients()

    # The names that `replayed_everything` depends on: with a WAL server and without one.
    await until(lambda: waits("RecoveryWalStream"), "wait for the stream")
    place.primary.kill()
    await until(lambda: waits("RecoveryRetrieveRetryInterval"), "wait for a retry")
    assert before.received is not None
    assert await standby.replayed_everything(before.received, WAIT_SECONDS)
    opened = await standby.promote()
    assert opened.timeline == 2
    assert before.replayed is not None
    assert opened.lsn >= before.replayed
    assert opened.promote_seconds <= opened.first_write_seconds < WAIT_SECONDS
    assert (await standby.promote()).lsn == opened.lsn, "again, as after a crash: no harm"

    assert (await standby.positions()).in_recovery is False
    (complaint,) = await standby.admit_clients()
    assert "nosuchmethod" in complaint
    assert standby.status().complaints == (complaint,)
    place.connect_by_tcp()
    kept = place.layout.primary_settings
    assert "archive_mode = 'on'" in (kept / "postgresql.auto.conf").read_text()
    assert "max_connections" in (kept / "postgresql.conf").read_text()


async def test_the_next_applier_adopts_the_running_standby(site: Callable[[int], Site]) -> None:
    place = site(MAJORS[-1])
    place.seed()
    first = place.standby()
    await first.ensure_started()
    pid = first.status().pid
    await first.close()

    second = place.standby()
    await second.ensure_started()
    assert second.status().pid == pid
    await follows(second, place.primary)
    await second.close()

    third = place.standby(settings={"work_mem": "9MB"})
    await third.ensure_started()
    other_pid = third.status().pid
    assert other_pid not in (pid, None)
    await third.close()

    # An applier that dies after it wrote a configuration and before it restarted the server.
    StandbyFiles(
        place.settings(settings={"work_mem": "8MB"}), place.layout, place.run_as, place.profile
    ).write()
    fourth = place.standby(settings={"work_mem": "8MB"})
    await fourth.ensure_started()
    assert fourth.status().pid not in (other_pid, None)
    await follows(fourth, place.primary)
    await fourth.close()

    last_pid = fourth.status().pid
    assert place.limits[:3] == [f"{pid} is held"] * 3, "the third found it so, and starts it anew"
    assert place.limits[-1] == f"{last_pid} is held"
    await place.standby(settings={"work_mem": "8MB"}).stop()
    assert place.server.running_pid() is None
    assert place.limits[-2:] == [f"{last_pid} is held", "none"]


async def test_a_killed_standby_is_started_again_and_a_session_not_kept_for_nothing(
    site: Callable[[int], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "IDLE_SECONDS", 0.1)
    place = site(MAJORS[-1])
    place.seed()
    standby = place.standby()
    await standby.ensure_started()
    pid = standby.status().pid
    assert pid is not None
    async with watched(standby):
        await follows(standby, place.primary)

        async def left_alone() -> bool:
            return place.sessions_of_ours() == 0

        await until(left_alone, "end of the session")
        await follows(standby, place.primary)
        os.kill(pid, signal.SIGKILL)
        await running_as(standby, pid)
        status = standby.status()
        assert (status.restarts, status.start_in_seconds) == (1, None)
        assert status.last_failure
        place.primary.execute("create table after_the_crash ()")
        await follows(standby, place.primary)
    assert place.server.running_pid() == status.pid, "it outlives whoever watched it"


@ENDS_OF_MAJORS
async def test_parameters_that_the_primary_raises_are_followed(
    site: Callable[[int], Site], major: int
) -> None:
    place = site(major)
    place.seed()
    standby = place.standby()
    await standby.ensure_started()
    pid = standby.status().pid
    assert pid is not None
    async with watched(standby):
        await follows(standby, place.primary)
        place.primary.configure({"max_connections": "250", "max_locks_per_transaction": "99"})
        place.primary.restart()
        place.primary.execute("create table after_the_restart ()")
        await running_as(standby, pid)
        await follows(standby, place.primary)
    assert "max_connections = 250" in place.layout.config_file.read_text()
    assert standby.status().restarts == 0


async def test_a_raised_profile_is_followed_before_its_wal_arrives(
    site: Callable[[int], Site],
) -> None:
    place = site(MAJORS[-1])
    place.seed()
    standby = place.standby()
    await standby.ensure_started()
    pid = standby.status().pid
    assert pid is not None
    await standby.set_profile(msgspec.structs.replace(place.profile, max_connections=90))
    assert standby.status().pid == pid, "PostgreSQL's default is above"
    await standby.set_profile(msgspec.structs.replace(place.profile, max_connections=300))
    assert await running_as(standby, pid) != pid
    assert "max_connections = 300" in place.layout.config_file.read_text()


@ENDS_OF_MAJORS
async def test_a_standby_told_so_looks_for_the_wal_server_at_once(
    site: Callable[[int], Site], major: int
) -> None:
    place = site(major)
    place.seed()
    standby = place.standby(settings={"wal_retrieve_retry_interval": "10min"})
    await standby.ensure_started()
    await follows(standby, place.primary)
    place.primary.stop()

    async def waits() -> bool:
        return place.startup_waits_for() == "RecoveryRetrieveRetryInterval"

    await until(waits, "wait for the next attempt")
    place.primary.start()
    place.primary.execute("create table after_the_restart ()")
    await standby.retry_streaming()
    await follows(standby, place.primary)


async def test_a_start_that_fails_says_why_and_is_repeated(site: Callable[[int], Site]) -> None:
    place = site(MAJORS[-1])
    place.seed()
    standby = place.standby()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", place.port))
        squatter.listen()
        with pytest.raises(LogshipError, match="FATAL") as caught:
            await standby.ensure_started()
        assert (caught.value.code, caught.value.retryable) == (Code.STANDBY_FAILED, True)
        assert standby.status().state is LifeState.WAITING
        assert "FATAL" in standby.status().last_failure
    async with watched(standby):
        await running_as(standby, 0)
        await follows(standby, place.primary)


async def test_replay_that_somebody_paused_goes_on_for_the_promotion(
    site: Callable[[int], Site],
) -> None:
    place = site(MAJORS[-1])
    place.seed()
    standby = place.standby()
    await standby.ensure_started()
    await follows(standby, place.primary)
    with psycopg.connect(
        host=str(place.layout.socket_directory), port=place.port, user="postgres", autocommit=True
    ) as connection:
        connection.execute("select pg_wal_replay_pause()")
    place.primary.execute("create table late as select generate_series(1, 1000)")
    end = Lsn.parse(place.primary.current_wal_lsn())

    async def received() -> bool:
        return ((await standby.positions()).received or 0) >= end

    await until(received, "the end received")
    assert await standby.replayed_everything(end, WAIT_SECONDS)
    assert ((await standby.positions()).replayed or 0) >= end


async def test_wal_that_never_came_is_not_said_to_be_replayed(site: Callable[[int], Site]) -> None:
    place = site(MAJORS[-1])
    place.seed()
    standby = place.standby()
    await standby.ensure_started()
    positions = await follows(standby, place.primary)
    assert positions.replayed is not None
    assert not await standby.replayed_everything(positions.replayed + (1 << 20), 0.3)


async def test_a_standby_that_was_opened_by_hand_is_not_started_by_mistake(
    site: Callable[[int], Site],
) -> None:
    place = site(MAJORS[-1])
    place.seed()
    standby = place.standby()
    await standby.ensure_started()
    await follows(standby, place.primary)
    await standby.promote()
    await standby.stop()

    with pytest.raises(LogshipError, match="no standby any more") as caught:
        await place.standby().ensure_started()
    assert not caught.value.retryable
    with pytest.raises(LogshipError, match="opened as a primary"):
        prepare(place.layout, place.run_as)

    again = place.standby(opened=True)
    await again.ensure_started()
    await until(lambda: _is_open(again), "open server")
    assert again.status().opened
    assert not place.layout.signal_file.exists()
    await again.stop()


async def _is_open(standby: Standby) -> bool:
    return not (await standby.positions()).in_recovery


async def test_strangers_can_not_reach_the_socket(site: Callable[[int], Site]) -> None:
    place = site(MAJORS[-1])
    place.seed()
    place.layout.socket_directory.mkdir(mode=0o755)
    give_to_server(place.layout.socket_directory)
    with pytest.raises(LogshipError, match="private"):
        await place.standby().ensure_started()
    place.layout.socket_directory.rmdir()
    standby = place.standby()
    await standby.ensure_started()
    assert place.layout.socket_directory.stat().st_mode & 0o777 == 0o700


async def test_a_tablespace_that_nobody_noted_is_given_its_path_after_all(
    site: Callable[[int], Site],
) -> None:
    """As of WAL that was stored before anybody looked for such records."""
    place = site(MAJORS[-1])
    if why := why_not(place.run_as):
        pytest.skip(f"mount namespaces are not permitted here: {why}")
    location = Path(f"/logship-{secrets.token_hex(4)}/fast")
    space, root = place.primary.directory / "space", place.primary.directory / "root"
    make_server_directory(space)
    root.mkdir()
    place.primary.private_paths = PrivatePaths(root, {location: space})
    place.primary.restart()
    place.seed()
    standby = place.standby()
    async with watched(standby):
        await standby.ensure_started()
        await follows(standby, place.primary)
        first = standby.status().pid
        assert first is not None
        place.primary.execute(f"create tablespace fast location '{location}'")  # type: ignore[arg-type]
        place.primary.execute("create table placed tablespace fast as select 1 as x")
        await running_as(standby, first)
        await follows(standby, place.primary)
    (ours,) = (place.layout.incarnation_directory / "tablespaces").iterdir()
    assert [path.name.partition("_")[0] for path in ours.iterdir()] == ["PG"]
    assert not location.parent.exists()

"""Real servers as processes: started, found again, stopped and promoted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from logship.errors import Code, LogshipError
from logship.postgres.control_file import State, read_control_file
from logship.postgres.installations import Installation, discover
from logship.postgres.postmaster import PID_FILE, Status
from logship.postgres.process import Server, Wait
from logship.postgres.run_as import RunAs
from tests.conftest import PrimaryFactory
from tests.support.installations import all_majors, cache_directory, postgres_dir
from tests.support.processes import give_to_server, make_server_directory
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def primary(primary: PrimaryFactory) -> PrimaryFactory:
    """Servers that do not fsync: nothing here needs it, and it takes most of the time."""

    def make(
        *args: Any, settings: Mapping[str, str] | None = None, **arguments: Any
    ) -> PrimaryServer:
        return primary(*args, settings={"fsync": "off", **(settings or {})}, **arguments)

    return make


# The account that the test servers' files belong to.
RUN_AS = RunAs.of(None)


def installation_of(server: PrimaryServer) -> Installation:
    found = discover([server.installation], run_as=RUN_AS)
    return next(one for one in found if one.bin_dir == server.installation / "bin")


class Managed:
    """A cluster of the fixtures, whose server only `Server` starts."""

    def __init__(self, cluster: PrimaryServer) -> None:
        self.cluster = cluster
        self.server = Server(installation_of(cluster), cluster.data, RUN_AS)
        self.log_file = cluster.directory / "managed.log"

    def start(self, wait: Wait = Wait.RECOVERING, timeout_seconds: float = 30.0) -> int:
        return self.server.start(
            config_file=self.cluster.data / "postgresql.conf",
            hba_file=self.cluster.data / "pg_hba.conf",
            log_file=self.log_file,
            timeout_seconds=timeout_seconds,
            wait=wait,
        )


@pytest.fixture
def managed(primary: PrimaryFactory) -> Iterator[list[Managed]]:
    """Whatever a test puts in is stopped at its end."""
    made: list[Managed] = []
    yield made
    for one in made:
        pid = one.server.running_pid()
        one.server.stop("immediate")
        assert pid is None or one.server.running_pid() is None


def take(made: list[Managed], cluster: PrimaryServer) -> Managed:
    made.append(Managed(cluster))
    return made[-1]


@all_majors
def test_a_started_server_is_nobodys_child_and_is_found_again(
    primary: PrimaryFactory, managed: list[Managed], major: int
) -> None:
    one = take(managed, primary(major, start=False))
    assert one.server.running_pid() is None
    assert one.server.status() is Status.STOPPED
    assert one.server.stop() is False
    assert one.server.reload() is False

    pid = one.start(Wait.READY)
    assert one.server.running_pid() == pid
    assert one.server.status() is Status.READY
    assert one.start() == pid  # as it runs, nothing happens
    assert one.cluster.execute("select 1") == [(1,)]

    assert os.getsid(pid) == pid != os.getsid(0)
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert int(stat[1]) != os.getpid()
    assert Path(f"/proc/{pid}").stat().st_uid == RUN_AS.uid
    descriptors = [str(Path(f"/proc/{pid}/fd/{fd}").readlink()) for fd in (0, 1, 2)]
    assert descriptors[0] == "/dev/null"
    assert not any("pipe" in target for target in descriptors)

    one.cluster.configure({"work_mem": "7MB"})
    assert one.server.reload()
    wait_until(
        lambda: one.cluster.execute("show work_mem") == [("7MB",)], 30, "the new configuration"
    )
    assert one.server.stop("fast")
    assert one.server.running_pid() is None
    assert read_control_file(one.cluster.data).state is State.SHUTDOWNED


def test_a_server_outlives_the_process_that_started_it(
    primary: PrimaryFactory, managed: list[Managed]
) -> None:
    one = take(managed, primary(start=False))
    program = f"""
        import os, signal
        from pathlib import Path
        from logship.postgres.installations import Installation
        from logship.postgres.process import Server, Wait
        from logship.postgres.run_as import RunAs
        data = Path({str(one.cluster.data)!r})
        installation = Installation(
            Path({str(one.server.installation.bin_dir)!r}),
            {one.server.installation.version_num},
            "configured",
        )
        pid = Server(installation, data, RunAs.of(None)).start(
            config_file=data / "postgresql.conf",
            hba_file=data / "pg_hba.conf",
            log_file=Path({str(one.log_file)!r}),
        )
        print(pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    # Its end of the pipe closes with it, or this would hang: the server inherited nothing.
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert one.server.running_pid() == int(died.stdout)
    assert one.cluster.execute("select 1") == [(1,)]


def test_a_recovering_standby_counts_as_started_before_it_is_consistent(
    primary: PrimaryFactory, managed: list[Managed], shared_tmp_path: Path
) -> None:
    """A backup without any WAL and without a primary to get it from."""
    source = primary()
    clone = source.clone_as_standby(shared_tmp_path / "standby")
    clone.stop()
    source._copy_data_to(fresh := clone.directory / "fresh")
    source.stop()
    shutil.rmtree(clone.data)
    fresh.rename(clone.data)
    clone.configure({**clone._addresses(), "primary_conninfo": ""})
    (clone.data / "standby.signal").touch()
    give_to_server(clone.data / "standby.signal")

    one = take(managed, clone)
    pid = one.start(Wait.RECOVERING)
    assert one.server.running_pid() == pid
    assert one.server.status() is Status.STARTING
    with pytest.raises(psycopg.OperationalError):
        clone.execute("select 1")
    assert one.start(Wait.RECOVERING) == pid
    with pytest.raises(LogshipError, match="not ready after") as caught:
        one.start(Wait.READY, timeout_seconds=0.3)
    assert caught.value.code is Code.STANDBY_FAILED
    assert caught.value.retryable
    assert one.server.running_pid() == pid


def test_a_server_that_does_not_start_says_why(
    primary: PrimaryFactory, managed: list[Managed]
) -> None:
    one = take(managed, primary(start=False, settings={"shared_buffers": "a lot"}))
    with pytest.raises(LogshipError, match=r'shared_buffers.*"a lot"') as caught:
        one.start()
    assert caught.value.code is Code.STANDBY_FAILED
    assert str(one.log_file) in caught.value.hint
    assert one.server.status() is Status.STOPPED


def test_a_log_that_can_not_be_written_is_reported(
    primary: PrimaryFactory, managed: list[Managed]
) -> None:
    one = take(managed, primary(start=False))
    one.log_file = one.cluster.directory / "missing" / "managed.log"
    with pytest.raises(LogshipError, match="did not start") as caught:
        one.start(timeout_seconds=20)
    assert caught.value.code is Code.STANDBY_FAILED


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_every_stop_mode_waits_for_the_end(
    primary: PrimaryFactory, managed: list[Managed], mode: str
) -> None:
    one = take(managed, primary(start=False))
    pid = one.start(Wait.READY)
    assert one.server.stop(mode)  # type: ignore[arg-type]
    assert not Path(f"/proc/{pid}/cwd").exists()


def test_a_stop_that_takes_too_long_is_reported_and_goes_on(
    primary: PrimaryFactory, managed: list[Managed]
) -> None:
    one = take(managed, primary(start=False))
    one.start(Wait.READY)
    with psycopg.connect(one.cluster.dsn()):
        with pytest.raises(LogshipError, match="did not stop") as caught:
            one.server.stop("smart", timeout_seconds=0.2)
        assert caught.value.retryable
    wait_until(lambda: one.server.running_pid() is None, 30, "smart shutdown")


def test_a_killed_servers_file_is_not_taken_for_a_running_server(
    primary: PrimaryFactory, managed: list[Managed]
) -> None:
    one = take(managed, primary(start=False))
    pid = one.start(Wait.READY)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: one.server.running_pid() is None, 30, "the end of the postmaster")
    assert (one.cluster.data / PID_FILE).exists()
    assert one.server.status() is Status.STOPPED

    def started() -> int:
        # Its children notice the postmaster's death a moment later; until then it is refused.
        try:
            return one.start(Wait.READY)
        except LogshipError as error:
            assert "shared memory" in error.what or "lock file" in error.what, error
            return 0

    assert wait_until(started, 30, "start after a kill") != pid


def test_a_dead_servers_process_id_that_is_another_servers_now_does_not_keep_it_down(
    primary: PrimaryFactory, managed: list[Managed]
) -> None:
    """As after a reboot: both run as one user, so PostgreSQL itself would refuse to start."""
    other = primary(name="other")
    one = take(managed, primary(start=False))
    one.start(Wait.READY)
    lines = (one.cluster.data / PID_FILE).read_text().splitlines()
    socket_lock = one.cluster.directory / f".s.PGSQL.{one.cluster.port}.lock"
    socket_lines = socket_lock.read_text().splitlines()
    one.server.stop()
    for path, content in ((one.cluster.data / PID_FILE, lines), (socket_lock, socket_lines)):
        path.write_text("\n".join([str(other.pid), *content[1:]]) + "\n")
        give_to_server(path)

    assert one.server.running_pid() is None
    assert one.server.stop() is False
    assert other.is_running
    assert one.start(Wait.READY) != other.pid
    assert other.execute("select 1") == [(1,)]


@all_majors
def test_promotion_needs_no_sql(
    primary: PrimaryFactory, managed: list[Managed], shared_tmp_path: Path, major: int
) -> None:
    source = primary(major)
    clone = source.clone_as_standby(shared_tmp_path / "standby")
    clone.stop()
    one = take(managed, clone)
    with pytest.raises(LogshipError, match="no server runs") as caught:
        one.server.promote()
    assert caught.value.code is Code.PROMOTE_FAILED

    # One that was slow to start counts as recovering before its control file says so.
    one.start(Wait.READY)
    # Whoever has the server's account can't have us make a file elsewhere.
    elsewhere = shared_tmp_path / "elsewhere"
    (clone.data / "promote").symlink_to(elsewhere)
    with pytest.raises(LogshipError, match="can't be made") as caught:
        one.server.promote()
    assert caught.value.code is Code.PROMOTE_FAILED
    assert not elsewhere.exists()
    (clone.data / "promote").unlink()
    one.server.promote()
    wait_until(lambda: read_control_file(clone.data).state is State.IN_PRODUCTION, 30, "promotion")
    clone.execute("create table written (id int)")
    assert not (clone.data / "promote").exists()
    with pytest.raises(LogshipError, match="no standby"):
        one.server.promote()
    assert source.execute("select pg_is_in_recovery()") == [(False,)]


def test_paths_with_spaces_and_quotes_are_no_trouble(
    shared_tmp_path: Path, managed: list[Managed]
) -> None:
    directory = shared_tmp_path / "it's a place"
    cluster = PrimaryServer.create(postgres_dir(18), directory)
    one = take(managed, cluster)
    one.start(Wait.READY)
    assert cluster.execute("select 1") == [(1,)]
    one.server.stop()


def test_the_environment_does_not_reach_the_server(
    primary: PrimaryFactory, managed: list[Managed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGAPPNAME", "leaked")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    one = take(managed, primary(start=False))
    pid = one.start(Wait.READY)
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    names = {entry.partition(b"=")[0] for entry in environment}
    assert not names & {b"PGAPPNAME", b"NOTIFY_SOCKET"}
    assert b"PGDATA=/nowhere" not in environment


def test_the_fetched_servers_are_discovered(shared_tmp_path: Path) -> None:
    found = discover([cache_directory()], run_as=RUN_AS, debian_directory=shared_tmp_path)
    configured = [one for one in found if one.origin == "configured"]
    assert {one.major for one in configured} >= {14, 15, 16, 17, 18}
    by_name = {one.bin_dir.parent.name: one for one in configured}
    assert all(name.startswith(one.version) for name, one in by_name.items())


def test_what_the_servers_user_can_not_reach_is_left_out(shared_tmp_path: Path) -> None:
    if not RUN_AS.changes:
        pytest.skip("only root runs servers as someone else")
    closed = shared_tmp_path / "closed"
    make_server_directory(closed)
    os.chown(closed, 0, 0)
    (closed / "17").symlink_to(postgres_dir(17))
    shutil.copytree(postgres_dir(17) / "bin", closed / "bin")
    found = discover([closed], run_as=RUN_AS, debian_directory=shared_tmp_path / "none")
    assert not [one for one in found if one.origin == "configured"]

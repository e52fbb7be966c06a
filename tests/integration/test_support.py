"""The test servers themselves: what other tests take for granted about them."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from tests.conftest import PrimaryFactory
from tests.support import forks
from tests.support.arguments import count, minutes
from tests.support.directories import remove_left_over
from tests.support.forks import Forked, start_forked
from tests.support.installations import MAJORS, all_majors, older_minor_dir, postgres_dir, wheel_dir
from tests.support.memory_room import cgroup_available_bytes
from tests.support.processes import shared_memory_segments, with_children
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


@all_majors
def test_a_killed_server_comes_back_with_what_it_committed(
    primary: PrimaryFactory, major: int
) -> None:
    server = primary(major)
    server.execute("create table kept (id int)")
    server.execute("insert into kept select generate_series(1, 1000)")
    server.kill()
    assert not server.is_running

    server.start()
    assert server.execute("select count(*) from kept") == [(1000,)]
    version = server.execute("select current_setting('server_version_num')::int / 10000")
    assert version == [(major,)]


@pytest.mark.parametrize(
    ("major", "kind", "place"),
    [*((major, "posix", "/dev/shm") for major in MAJORS), (MAJORS[-1], "mmap", "pg_dynshmem")],
)
def test_a_killed_server_leaves_no_shared_memory_when_it_is_destroyed(
    primary: PrimaryFactory, major: int, kind: str, place: str
) -> None:
    """posix: as the applier's standbys have it."""
    server = primary(major, settings={"dynamic_shared_memory_type": kind})
    segment = (server.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
    with contextlib.closing(psycopg.connect(server.dsn())):
        files = {path for pid in with_children(server.pid) for path in dynamic_memory_of(pid)}
        server.kill()
    assert len(files) >= (2 if major >= 15 else 1), "its index, and the statistics"
    assert {path.parent for path in files} == {server.data / place}
    assert all(path.exists() for path in files)
    assert segment in shared_memory_segments()
    server.destroy()
    assert segment not in shared_memory_segments()
    assert not any(path.exists() for path in files)


def dynamic_memory_of(pid: int) -> set[Path]:
    maps = Path(f"/proc/{pid}/maps").read_text()
    return set(map(Path, re.findall(r"/\S+/(?:PostgreSQL|mmap)\.\d+", maps)))


@all_majors
def test_a_clone_follows_and_opens_on_a_new_timeline(
    primary: PrimaryFactory, shared_tmp_path: Path, major: int
) -> None:
    server = primary(major)
    server.execute("create table kept (id int)")
    clone = server.clone_as_standby(shared_tmp_path / "standby")
    server.execute("insert into kept values (1)")
    wait_until(lambda: clone.execute("select * from kept") == [(1,)], 30, "row on the standby")

    clone.promote()
    clone.execute("insert into kept values (2)")
    timeline = clone.execute("select left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)")
    assert timeline == [("00000002",)]
    assert server.execute("select * from kept") == [(1,)]


@all_majors
def test_clusters_have_system_identifiers_of_their_own(primary: PrimaryFactory, major: int) -> None:
    query = "select system_identifier from pg_control_system()"
    one = primary(major, name="one").execute(query)
    two = primary(major, name="two").execute(query)
    assert one != two


@all_majors
def test_replication_connections_are_accepted(primary: PrimaryFactory, major: int) -> None:
    server = primary(major)
    for host in ("127.0.0.1", str(server.socket_directory)):
        dsn = server.dsn(host=host, replication="true")
        with psycopg.connect(dsn, autocommit=True) as connection:
            row = connection.execute("IDENTIFY_SYSTEM").fetchone()
        assert row is not None
        assert row[1] == 1


def test_segment_size_settings_and_initdb_arguments_take_effect(
    primary: PrimaryFactory,
) -> None:
    server = primary(
        17, wal_segsize_mb=1, settings={"work_mem": "1MB"}, initdb_args=("--data-checksums",)
    )
    rows = server.execute(
        "select current_setting('wal_segment_size'), current_setting('work_mem'),"
        " current_setting('data_checksums')"
    )
    assert rows == [("1MB", "1MB", "on")]


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_every_stop_mode_stops(primary: PrimaryFactory, mode: str) -> None:
    server = primary(18)
    server.stop(mode)  # type: ignore[arg-type]
    assert not server.is_running
    server.start()
    with pytest.raises(errors.DivisionByZero):
        server.execute("select 1 / 0")


def test_a_server_that_cannot_start_says_why(primary: PrimaryFactory) -> None:
    server = primary(18, start=False, settings={"no_such_setting": "1"})
    with pytest.raises(RuntimeError, match="no_such_setting"):
        server.start()


@pytest.mark.parametrize("major", [16, 17])
def test_there_is_an_older_minor(primary: PrimaryFactory, major: int) -> None:
    older = older_minor_dir(major)
    assert older != postgres_dir(major)
    assert primary(installation=older).execute("select 1") == [(1,)]


def test_the_wheels_server_runs_without_templates(shared_tmp_path: Path) -> None:
    server = PrimaryServer.create(wheel_dir(), shared_tmp_path / "wheel")
    try:
        server.start()
        assert server.execute("select 1") == [(1,)]
        assert (wheel_dir() / "bin" / "pg_basebackup").exists()
    finally:
        server.destroy()


def test_a_forked_program_is_a_process_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(code: str, *arguments: str) -> Forked:
        with (tmp_path / "log").open("wb") as log:
            return start_forked("shipper", ["-c", code, *arguments], log)

    monkeypatch.setenv("TOLD_BY_THE_TEST", "this")
    monkeypatch.chdir(tmp_path)
    leads = "os.getsid(0) == os.getpid()"
    told = start(
        "import os, sys, atexit; atexit.register(print, 'end');"
        f"print(os.environ['TOLD_BY_THE_TEST'], os.getcwd(), sys.argv, {leads}); sys.exit(3)",
        "one",
    )
    assert told.wait(30) == 3
    said = f"this {tmp_path} ['-c', 'one'] True\nend\n"
    assert (tmp_path / "log").read_text() == said
    failed = start("1 / 0")
    endless = start("import time; time.sleep(600)")
    assert failed.wait(30) == 1
    assert endless.poll() is None
    os.kill(endless.pid, signal.SIGKILL)
    assert (endless.wait(30), told.poll(), failed.poll()) == (-signal.SIGKILL, 3, 1)


@pytest.mark.parametrize("what", ["interrupted", "dead"])
def test_a_starter_that_did_not_answer_is_replaced_and_what_it_started_is_killed(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(code: str) -> Forked:
        with (tmp_path / "log").open("ab") as log:
            return start_forked("shipper", ["-c", code], log)

    endless = "import os, time; print(os.getppid(), flush=True); time.sleep(600)"
    before = start(endless)
    starter = int(wait_until((tmp_path / "log").read_text, 30, "its starter"))
    if what == "dead":
        os.kill(starter, signal.SIGKILL)
        with pytest.raises((RuntimeError, ConnectionError)):
            wait_until(before.poll, 30, "it is noticed")
    else:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(forks, "Forked", interrupted)
            start(endless)
    assert before.poll() == -signal.SIGKILL
    wait_until(lambda: str(tmp_path) not in open_files(), 30, "end of all that it started")
    assert start("raise SystemExit(3)").wait(30) == 3


def interrupted(*_: object) -> Forked:
    raise KeyboardInterrupt


def open_files() -> str:
    """What the standard outputs of all other processes are."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/fd/1"):
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return "\n".join(found)


def test_what_a_killed_run_left_is_removed_and_no_other_run_s_is(tmp_path: Path) -> None:
    """Nor anything that no run made."""
    code = (
        "from tests.support.directories import open_directory, run_directories\n"
        "with run_directories():\n"
        "    made = open_directory()\n"
        "    (made / 'some').mkdir()\n"
        "    print(made, flush=True)\n"
        "    input()\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "LOGSHIP_TESTS_ON_DISK": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    (tmp_path / "logship-other").mkdir()
    places = []
    for run in runs:
        assert run.stdout is not None
        places.append(Path(run.stdout.readline().strip()))
    killed, living = runs
    killed.kill()
    killed.communicate()
    assert len(str(places[0])) < len(str(tmp_path)) + 20
    assert [(place / "some").exists() for place in places] == [True, True]
    remove_left_over(tmp_path)
    assert [place.parent.exists() for place in places] == [False, True]
    living.communicate("\n")
    assert living.returncode == 0
    assert [each.name for each in tmp_path.iterdir()] == ["logship-other"]


def test_what_a_cgroup_has_left_counts_as_room_in_memory(tmp_path: Path) -> None:
    def given(place: Path, **files: str) -> None:
        place.mkdir(parents=True)
        for name, content in files.items():
            (place / name.replace("_", ".", 1)).write_text(content)

    stat = "anon 5\ninactive_file 100\ntotal_inactive_file 300\n"
    old = {"memory_limit_in_bytes": "5000\n", "memory_usage_in_bytes": "1000\n"}
    given(tmp_path / "memory" / "ours", **old, memory_stat=stat)
    given(tmp_path / "none", memory_max="max\n", memory_current="1000\n", memory_stat=stat)
    given(tmp_path / "some", memory_max="2000\n", memory_current="1000\n", memory_stat=stat)
    expected = {"4:memory:/ours": [4300], "0::/none": [], "0::/some": [1100], "0::/": []}
    for own, found in expected.items():
        assert cgroup_available_bytes(f"3:cpu:/x\n{own}\n", tmp_path) == found
    both = "4:memory:/ours\n0::/some\n"
    assert cgroup_available_bytes(both, tmp_path) == [4300, 1100]


def test_waiting_names_what_did_not_come() -> None:
    with pytest.raises(TimeoutError, match="no rain"):
        wait_until(lambda: False, 0.05, "rain")


@pytest.mark.parametrize(
    ("take", "good", "bad"),
    [(count, ["1", "20"], ["0", "-5", "x", "1.5"]), (minutes, ["0.1", "60"], ["0", "-1", "inf"])],
)
def test_none_of_it_is_no_number_of_rounds(
    take: Callable[[str], float], good: list[str], bad: list[str]
) -> None:
    assert [take(each) for each in good] == [float(each) for each in good]
    for each in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            take(each)

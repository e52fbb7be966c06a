"""The other tools whose CPU is compared: pg_receivewal with lz4, pgBackRest's async push."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench import machine
from tests.bench.site import LOOK_SECONDS, PATIENCE_SECONDS, Site
from tests.support.installations import wheel_dir
from tests.support.processes import make_server_directory, run_as_server, start_as_server
from tests.support.waiting import wait_until

PGBACKREST_MAJORS = range(10, 16)
"""What Debian 12's pgBackRest 2.45 knows; it refuses the control file of any other."""

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

_PGBACKREST = """
[global]
repo1-path={directory}/repository
spool-path={directory}/spool
lock-path={directory}/lock
log-path={directory}/log
log-level-file=off
log-level-console=warn
archive-async=y
process-max=2
compress-type=zst
compress-level=3
[bench]
pg1-path={data}
pg1-socket-path={socket_directory}
pg1-port={port}
pg1-user=postgres
"""


class ToolFinder:
    """Client programs of PostgreSQL: the installation's own, Debian's, the wheel's."""

    def __init__(self, installation: Path) -> None:
        major = installation_major(installation)
        self._places = [installation / "bin", Path(f"/usr/lib/postgresql/{major}/bin")]
        with contextlib.suppress(LookupError):
            self._places.append(wheel_dir() / "bin")

    def __call__(self, name: str) -> Path:
        """Raises LookupError if there is none."""
        for place in self._places:
            if (place / name).exists():
                return place / name
        raise LookupError(f"{name} is not in any of {', '.join(map(str, self._places))}")

    def receivewal_with_lz4(self) -> Path | None:
        """A pg_receivewal that was built with lz4, which the wheel's is not."""
        for place in self._places:
            program = place / "pg_receivewal"
            if program.exists() and "does not support" not in _complaint(program):
                return program
        return None


def _complaint(program: Path) -> str:
    # It checks what it can compress with before it looks for a server, and there is none.
    done = subprocess.run(
        [program, "-D", "/", "--compress=lz4", "--no-loop", "-h", "/nonexistent", "-w"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.stderr


def installation_major(installation: Path) -> int:
    done = subprocess.run(
        [installation / "bin" / "postgres", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    match = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    if match is None:
        raise LookupError(f"{installation} says {done.stdout!r} of its version")
    return int(match[1])


def install_debian(major: int) -> str:
    """Have Debian's pgBackRest and PostgreSQL client; returns what is missing all the same.

    Only as root and where there is apt-get: nothing else is ever installed.
    """
    packages = []
    if shutil.which("pgbackrest") is None:
        packages.append("pgbackrest")
    if not Path(f"/usr/lib/postgresql/{major}/bin/pg_receivewal").exists():
        packages.append(f"postgresql-client-{major}")
    if not packages:
        return ""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"{' and '.join(packages)} not installed (needs root and apt-get)"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=environment, check=False, timeout=300)
    failed = []
    for package in packages:
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        done = subprocess.run(
            command, env=environment, check=False, timeout=300, stdout=subprocess.DEVNULL
        )
        if done.returncode != 0:
            failed.append(package)
    return f"{' and '.join(failed)} could not be installed" if failed else ""


class Received(NamedTuple):
    """One generation of WAL through a tool."""

    mb_s: float
    cpu_s_per_gb: float


def receive_with_receivewal(site: Site, program: Path) -> Received:
    """pg_receivewal --compress=lz4 attached while WAL is generated."""
    directory = site.new_directory("receivewal")
    target = directory / "wal"
    make_server_directory(target)
    command: list[str | Path] = [
        *(program, "-D", target, "--compress=lz4", "--no-loop", "--no-password"),
        *("-h", site.primary.socket_directory, "-p", str(site.primary.port), "-U", "postgres"),
    ]
    with (directory / "log").open("ab") as log:
        process = start_as_server(command, directory, log)
    try:
        site.wait_attached("pg_receivewal")
        before = machine.times_of(process.pid).seconds
        started_at = time.monotonic()
        generated = site.generate()
        last = str(site.sql("select pg_walfile_name(pg_switch_wal())")[0][0])
        _wait_file(lambda: (target / f"{last}.lz4").exists(), f"{last}.lz4")
        seconds = time.monotonic() - started_at
        cpu = machine.times_of(process.pid).seconds - before
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)
    return Received(generated.size_bytes / 1e6 / seconds, cpu / (generated.size_bytes / 1e9))


class PgBackRest:
    """Archives the primary's WAL, asynchronously, into a repository on this disk."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._directory = site.new_directory("pgbackrest")
        self._config = self._directory / "pgbackrest.conf"

    def restore_command(self, data: Path) -> str:
        """What a standby in `data` fetches WAL with: asynchronously, two processes."""
        return (
            f"pgbackrest --config={self._config} --stanza=bench --pg1-path={data}"
            f" --spool-path={data.parent}/spool --lock-path={data.parent}/lock"
            ' archive-get %f "%p"'
        )

    @contextlib.contextmanager
    def archiving(self, before: str = "") -> Iterator[None]:
        """The primary restarts with archiving on, and without afterwards.

        before: a command that has to succeed for each segment first.
        """
        site, primary = self._site, self._site.primary
        for name in ("repository", "spool", "lock", "log"):
            make_server_directory(self._directory / name)
        self._config.write_text(
            _PGBACKREST.format(
                directory=self._directory,
                data=primary.data,
                socket_directory=primary.socket_directory,
                port=primary.port,
            )
        )
        push = f"pgbackrest --config={self._config} --stanza=bench archive-push %p"
        if before:
            push = f"{before} && {push}"
        # Its asynchronous process has no parent; as ours it keeps its times until we look.
        _adopt_orphans(True)
        try:
            primary.configure({"archive_mode": "on", "archive_command": push})
            primary.restart()
            stanza: list[str | Path] = [
                *("pgbackrest", f"--config={self._config}", "--stanza=bench", "stanza-create")
            ]
            run_as_server(stanza, self._directory)
            self.archive_all()
            yield
        finally:
            primary.configure({"archive_mode": "off", "archive_command": ""})
            primary.restart()
            _adopt_orphans(False)
            wait_until(self._bury, 60, "end of pgBackRest's processes")
            shutil.rmtree(self._directory, ignore_errors=True)
            site.sql("checkpoint")

    def receive(self) -> Received:
        """One generation of WAL into the repository."""
        site = self._site
        before = self._cpu_seconds()
        started_at = time.monotonic()
        generated = site.generate()
        self.archive_all()
        seconds = time.monotonic() - started_at
        cpu = self._cpu_seconds() - before
        return Received(generated.size_bytes / 1e6 / seconds, cpu / (generated.size_bytes / 1e9))

    def archive_all(self) -> None:
        """End the segment, and return when all that was written is in the repository."""
        # A segment without a record is not ended by a switch.
        self._site.sql("select pg_logical_emit_message(false, 'bench', 'end')")
        last = self._site.sql("select pg_walfile_name(pg_switch_wal())")[0][0]
        self._wait_archived(str(last))

    def _wait_archived(self, segment: str) -> None:
        where = self._directory / "repository" / "archive" / "bench"
        _wait_file(lambda: any(where.glob(f"*/*/{segment}-*.zst")), segment)
        # Only now has the archiver, whose children count, waited for the last of them.
        _wait_file(
            lambda: (
                self._site.sql("select last_archived_wal from pg_stat_archiver")[0][0] == segment
            ),
            f"{segment} is acknowledged",
        )

    def _cpu_seconds(self) -> float:
        """The archiver with all its children, the asynchronous processes with theirs."""
        total = 0.0
        for process in machine.all_times():
            is_archiver = (
                process.parent_pid == self._site.primary.pid
                and "archiver" in _command_line(process.pid)
            )
            if is_archiver or self._is_ours(process):
                total += process.seconds
        return total

    def _is_ours(self, process: machine.ProcessTimes) -> bool:
        # A zombie has no command line any more.
        return process.name == "pgbackrest" and (
            process.parent_pid == os.getpid() or str(self._config) in _command_line(process.pid)
        )

    def _bury(self) -> bool:
        """Wait for the orphans that ended; True when none is left."""
        alive = False
        for process in list(machine.all_times()):
            if process.name == "pgbackrest" and process.parent_pid == os.getpid():
                alive |= os.waitpid(process.pid, os.WNOHANG) == (0, 0)
        return not alive


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _adopt_orphans(adopt: bool) -> None:
    """Become the parent of descendants that lose theirs (prctl(2))."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _wait_file(there: object, what: str) -> None:
    assert callable(there)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still no {what}")
        time.sleep(LOOK_SECONDS)

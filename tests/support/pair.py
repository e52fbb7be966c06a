"""A production host and a recovery host in one directory: real processes on loopback."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from logship.applier_client import ApplierClient
from logship.errors import LogshipError
from logship.link.keys import generate
from logship.lsn import Lsn
from logship.postgres.postmaster import remove_shared_memory, running_postmaster
from logship.status import InstanceStatus
from tests.support.as_installed import AS_INSTALLED
from tests.support.directories import OF_THE_RUN, directory_of_the_run
from tests.support.forks import Forked, start_forked
from tests.support.installations import cache_directory
from tests.support.processes import server_account
from tests.support.servers import PrimaryServer
from tests.support.waiting import free_port, wait_until

PATIENCE_SECONDS = 60.0

_APPLIER = """
directory = "{directory}/applier"
[link]
listen = "tcp://127.0.0.1:{link_port}"
secret_key_file = "{directory}/keys/applier.key"
heartbeat_seconds = {heartbeat_seconds}
[api]
socket = "{directory}/run/applier.sock"
[wal_server]
socket_directory = "{directory}/run/wal"
[postgres]
installations = ["{cache}"]
run_as = "{run_as}"
[store]
keep_free_mb = {keep_free_mb}
{more_store}
[standby]
shared_buffers_mb = 16
{more_standby}
"""

_INSTANCE = """
[instances.{name}]
{key}
port = {port}
{more}
"""

_SHIPPER = """
instance = "{name}"
state_directory = "{directory}/shipper{suffix}"
protection = "{protection}"
[primary]
conninfo = "{conninfo}"
connect_timeout_seconds = 3
{primary}
"""

_LINK = """
[link]
address = "{address}"
applier_public_key_file = "{directory}/keys/applier.pub"
secret_key_file = "{key_file}"
{more}
"""

_BUCKET = """
[bucket]
url = "{url}"
{endpoint}
timeout_seconds = {timeout_seconds}
attempts = {attempts}
{more}
"""

_MAIN = AS_INSTALLED + "; from {program}.commands import main; raise SystemExit(main())"


def durable_lsn(status: InstanceStatus) -> Lsn:
    """As positions compare, which their texts do not: "0/A000000" is less than "0/10000000"."""
    return Lsn.parse(str(status["store"]["durable"]).split(":")[1])


class BucketRoad(NamedTuple):
    """A bucket that both sides of a pair use.  Credentials are this process's environment."""

    url: str
    endpoint_url: str = ""
    applier: str = "poll_seconds = 0.2"
    """More lines of the applier's `[bucket]`."""
    timeout_seconds: int = 5
    attempts: int = 2

    def section(self, more: str) -> str:
        endpoint = f'endpoint_url = "{self.endpoint_url}"' if self.endpoint_url else ""
        return _BUCKET.format(
            url=self.url,
            endpoint=endpoint,
            timeout_seconds=self.timeout_seconds,
            attempts=self.attempts,
            more=more,
        )


class Process:
    """One `shipper run` or `applier run`, with its log."""

    _may_fork = True
    """Off a process that has imported the program already (`forks`), in a run of the tests."""

    def __init__(self, program: str, settings: Path, log: Path) -> None:
        self.program = program
        self.settings = settings
        self.log_file = log
        self._process: subprocess.Popen[bytes] | Forked | None = None

    def start(self, *options: str) -> None:
        assert not self.is_running
        code = _MAIN.format(program=self.program)
        self.start_python("-c", code, "run", "--config", self.settings, *options)

    def start_python(self, *arguments: str | Path) -> None:
        """As this process, the Python program of `arguments`, which runs `program` in the end."""
        with self.log_file.open("ab") as log:
            # In benchmarks and `make torture` the start belongs to what is looked at.
            if self._may_fork and OF_THE_RUN in os.environ:
                self._process = start_forked(self.program, arguments, log)
                return
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait; returns its exit status."""
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)
            os.kill(self._process.pid, signal.SIGCONT)
        return self.wait()

    def wait(self, timeout_seconds: float = PATIENCE_SECONDS) -> int:
        assert self._process is not None
        return self._process.wait(timeout_seconds)

    def last_words(self, name: str, count: int) -> list[str]:
        """Its last `count` lines, and whether it lives: the log of one that was started again and
        died at once looks like that of the one before."""
        if self._process is None:
            return [f"{name}: was not started"]
        status = self._process.poll()
        state = f"runs as {self.pid}" if status is None else f"ended with {status}"
        return [f"{name}: {line}" for line in [*self.log.splitlines()[-count:], f"({state})"]]

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def events(self) -> list[dict[str, Any]]:
        """What it logged, one dict an event."""
        events = []
        for line in self.log.splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                events.append(json.loads(line))
        return events


class Pair:
    """Keys, settings and processes of one applier and its shippers.

    Make it, `add` instances, `start`; `destroy` ends everything that was started.
    """

    def __init__(
        self, directory: Path, *, keep_free_mb: int = 1, bucket: BucketRoad | None = None
    ) -> None:
        self.directory = directory
        self.bucket = bucket
        self.link_port = free_port()
        self.keep_free_mb = keep_free_mb
        self.heartbeat_seconds = 0.3
        """Of the link: after three that do not come it counts as lost."""
        self.more_store = self.more_standby = ""
        """More lines of these sections of the applier's settings."""
        self.more = ""
        """Further sections of the applier's settings."""
        self.instances: dict[str, str] = {}
        self.standby_ports: dict[str, int] = {}
        (directory / "run").mkdir(mode=0o711)
        _copy_answers(_known_installations(), self._installations)
        generate(directory / "keys", "applier")
        self.applier = Process("applier", directory / "applier.toml", directory / "applier.log")
        self.shippers: dict[str, Process] = {}
        self.client = ApplierClient(directory / "run" / "applier.sock")

    @property
    def _installations(self) -> Path:
        """Where the applier keeps what it found out of each installation."""
        return self.directory / "applier" / "installations"

    # --- settings -------------------------------------------------------------------------

    def add(self, name: str, *, more: str = "", link: bool = True) -> None:
        """An instance in the applier's settings, with its own key unless it has no link.
        Restart the applier."""
        if name not in self.standby_ports:
            generate(self.directory / "keys", name)
            self.standby_ports[name] = free_port()
        key = f'public_key_file = "{self.directory}/keys/{name}.pub"' if link else ""
        self.instances[name] = _INSTANCE.format(
            name=name, key=key, port=self.standby_ports[name], more=more
        )
        self.write_applier_settings()

    def write_applier_settings(self) -> None:
        account = server_account()
        text = _APPLIER.format(
            directory=self.directory,
            link_port=self.link_port,
            cache=cache_directory(),
            run_as=account.pw_name if account is not None else "",
            keep_free_mb=self.keep_free_mb,
            heartbeat_seconds=self.heartbeat_seconds,
            more_store=self.more_store,
            more_standby=self.more_standby,
        )
        if self.bucket is not None:
            text += self.bucket.section(self.bucket.applier)
        text += self.more + "".join(self.instances.values())
        self.applier.settings.write_text(text)

    def shipper(
        self,
        name: str,
        conninfo: str,
        *,
        protection: str = "async",
        key: str = "",
        suffix: str = "",
        address: str = "",
        link: str | None = "",
        bucket: str = "",
        primary: str = "",
        more: str = "",
    ) -> Process:
        """Settings and a process for a shipper of `name`; start it yourself.

        link, bucket, primary: more lines of these sections; link None: it has none.  more:
        further sections.
        """
        settings = self.directory / f"shipper-{name}{suffix}.toml"
        key_file = self.directory / "keys" / f"{key or name}.key"
        text = _SHIPPER.format(
            name=name,
            directory=self.directory,
            suffix=suffix,
            protection=protection,
            conninfo=conninfo,
            primary=primary,
        )
        if link is not None:
            text += _LINK.format(
                directory=self.directory,
                address=address or f"tcp://127.0.0.1:{self.link_port}",
                key_file=key_file,
                more=link,
            )
        if self.bucket is not None:
            text += self.bucket.section(bucket)
        settings.write_text(text + more)
        process = Process("shipper", settings, self.directory / f"shipper-{name}{suffix}.log")
        self.shippers[name + suffix] = process
        return process

    # --- what there is --------------------------------------------------------------------

    def status(self, name: str) -> InstanceStatus:
        return self.client.instance(name)

    def wait_status(
        self,
        name: str,
        condition: Callable[[InstanceStatus], object],
        what: str,
        timeout_seconds: float = PATIENCE_SECONDS,
    ) -> InstanceStatus:
        """Wait for a status that satisfies `condition`; a failing applier is shown."""

        def looked() -> InstanceStatus | None:
            if not self.applier.is_running:
                raise TimeoutError(f"the applier ended while waiting: {what}")
            try:
                status = self.status(name)
            except LogshipError:
                return None
            return status if condition(status) else None

        try:
            found = wait_until(looked, timeout_seconds, what)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self._last_words(name)}") from None
        assert found is not None
        return found

    def wait_following(self, name: str) -> InstanceStatus:
        """Seeded, and the standby streams."""
        return self.wait_status(
            name,
            lambda s: s["phase"] == "following" and s["standby"]["replay_lsn"] is not None,
            f"{name} follows",
        )

    def _last_words(self, name: str) -> str:
        lines = self.applier.last_words("applier", 25)
        for key, process in self.shippers.items():
            lines += process.last_words(f"shipper {key}", 15)
        with contextlib.suppress(LogshipError):
            lines.append(json.dumps(self.status(name), indent=1))
        return "\n".join(lines)

    def standby_directory(self, name: str) -> Path:
        (found,) = (self.directory / "applier" / "instances" / name).glob("*-*/data")
        return found

    def standby_pid(self, name: str) -> int:
        return int((self.standby_directory(name) / "postmaster.pid").read_text().split()[0])

    def standby_sql(self, name: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Query the standby, before or after its promotion, as its superuser."""
        with psycopg.connect(
            host=str(self.directory / "run" / "standby" / name),
            port=self.standby_ports[name],
            user="postgres",
            dbname="postgres",
            autocommit=True,
        ) as connection:
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def wait_on_standby(
        self, name: str, sql: str, expected: object, timeout_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """Wait until the standby answers `sql` with `expected`."""

        def looked() -> bool:
            try:
                return bool(self.standby_sql(name, sql)[0][0] == expected)
            except psycopg.Error:
                return False

        try:
            wait_until(looked, timeout_seconds, f"{expected!r} from {sql}")
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self._last_words(name)}") from None

    def wait_durable(self, name: str, server: PrimaryServer) -> None:
        """Wait until the store has all that `server` has flushed by now: what it loses is 0 if
        nothing more is written."""
        flushed = Lsn.parse(server.execute("select pg_current_wal_flush_lsn()::text")[0][0])
        self.wait_status(name, lambda s: durable_lsn(s) >= flushed, f"{flushed} is durable")

    # --- doing ----------------------------------------------------------------------------

    def protect(self, name: str, server: PrimaryServer, **shipper: Any) -> Process:
        """Everything up to a standby that follows."""
        self.add(name, link=shipper.get("link", "") is not None)
        if not self.applier.is_running:
            self.applier.start()
        process = self.shipper(name, server.dsn(), **shipper)
        process.start()
        self.wait_following(name)
        return process

    def promote(self, name: str) -> dict[str, Any]:
        """Through the API.  Returns the record; raises LogshipError."""
        for event in self.client.promote(name):
            if "result" in event:
                result: dict[str, Any] = event["result"]
                return result
        raise AssertionError("the promotion ended without a result")

    def command(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one command to its end, with this pair's applier."""
        process = self.begin(program, *arguments)
        try:
            out, err = process.communicate(timeout=120)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def begin(self, program: str, *arguments: str | Path) -> subprocess.Popen[str]:
        """As `command`, without waiting: whoever calls it does, by `communicate`."""
        code = _MAIN.format(program=program)
        environment: Mapping[str, str] = {
            **os.environ,
            "LOGSHIP_APPLIER": str(self.directory / "run" / "applier.sock"),
        }
        # Whoever runs the tests in the background has SIGINT ignored, and so would the program.
        interruptible = ["env", "--default-signal=INT", sys.executable]
        return subprocess.Popen(
            [*interruptible, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def destroy(self) -> None:
        for process in (*self.shippers.values(), self.applier):
            if process.is_running:
                process.stop(signal.SIGKILL)
        _copy_answers(self._installations, _known_installations())
        standbys = self.directory.glob("*/instances/*/*/data/postmaster.pid")
        for pid_file in (*standbys, *self.directory.glob("*/drills/*/data/postmaster.pid")):
            # Its number may be another process's by now.
            server = running_postmaster(pid_file.parent)
            if server is not None:
                with contextlib.suppress(OSError):
                    _kill_tree(server.pid)
            remove_shared_memory(pid_file.parent)


def _known_installations() -> Path:
    """What earlier pairs of this run found out: asking anew takes an initdb each time."""
    if OF_THE_RUN in os.environ:
        return directory_of_the_run() / "installations"
    return _known_here()


@functools.cache
def _known_here() -> Path:
    made = Path(tempfile.mkdtemp(prefix="logship-known-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _copy_answers(source: Path, target: Path) -> None:
    for answer in source.glob("*.json"):
        if not (target / answer.name).exists():
            target.parent.mkdir(mode=0o711, exist_ok=True)
            target.mkdir(exist_ok=True)
            # Another process may be reading it.
            new = target / f"{answer.name}.{os.getpid()}"
            shutil.copyfile(answer, new)
            new.rename(target / answer.name)


def _kill_tree(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for each in [*map(int, children), pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}/cwd").exists(), 10, f"end of {pid}")

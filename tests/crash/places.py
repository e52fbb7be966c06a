"""Where crashes are tried from: an applier's directory, kept aside and put back."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from logship.errors import LogshipError
from logship.postgres.postmaster import remove_shared_memory
from tests.crash import dying
from tests.support.pair import PATIENCE_SECONDS, Pair
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until
from tests.torture.processes import kill_server

NAME = "main"
ROWS = 500
COUNT = "select count(*) from t"


class Place:
    """One pair whose applier can be put back to a moment that was kept with `keep`."""

    def __init__(self, directory: Path, server: PrimaryServer) -> None:
        self.pair = Pair(directory)
        self.server = server
        self.steps_file = directory / "steps"
        self._directory = directory
        self._refusal = ""

    # --- the moment -----------------------------------------------------------------------

    def protect(self) -> None:
        """A standby that has all of the primary's rows."""
        self.server.execute("create table t (id int generated always as identity, v text)")
        self.server.execute(
            f"insert into t (v) select repeat('v', 100) from generate_series(1, {ROWS})"
        )
        self.pair.add(NAME, more='listen_addresses = "127.0.0.1"')
        self.pair.applier.start()
        self.pair.shipper(NAME, self.server.dsn()).start()
        self.pair.wait_following(NAME)
        self.pair.wait_on_standby(NAME, COUNT, ROWS)

    def stop(self) -> None:
        """Nothing of ours runs, the standby's server neither."""
        for process in (*self.pair.shippers.values(), self.pair.applier):
            process.stop(signal.SIGKILL)
        self.kill_standby()

    def kill_standby(self) -> None:
        with contextlib.suppress(ValueError):
            kill_server(self.pair.standby_directory(NAME))

    def keep(self, moment: str) -> None:
        """Everything must be stopped."""
        self._copy("applier", f"kept-{moment}")

    def put_back(self, moment: str) -> None:
        self.clear()
        shutil.rmtree(self._directory / "run" / "standby", ignore_errors=True)
        self._copy(f"kept-{moment}", "applier")

    def clear(self) -> None:
        """Stop everything, and have an applier with nothing."""
        self.stop()
        with contextlib.suppress(ValueError):
            remove_shared_memory(self.pair.standby_directory(NAME))
        shutil.rmtree(self._directory / "applier", ignore_errors=True)

    def _copy(self, source: str, target: str) -> None:
        shutil.rmtree(self._directory / target, ignore_errors=True)
        # shutil.copytree would not keep owners.
        subprocess.run(
            ["cp", "-a", "--reflink=auto", source, target], cwd=self._directory, check=True
        )

    def destroy(self) -> None:
        self.pair.destroy()

    # --- dying ----------------------------------------------------------------------------

    def start_dying_applier(self, at_step: int | str, *, counting_from: str) -> None:
        """`applier run` in the place of the pair's own, until its step `at_step` (`dying`)."""
        applier = self.pair.applier
        command: list[str | Path] = ["applier", "run", "--config", applier.settings]
        applier.log_file.write_bytes(b"")
        applier.start_python(*self._dying(at_step, counting_from, command))

    def promote_dying(self, at_step: int | str) -> subprocess.CompletedProcess[str]:
        """`shipper promote --offline` until its step `at_step`."""
        settings = self.pair.applier.settings
        command: list[str | Path] = ["shipper", "promote", NAME, "--offline", "--json"]
        command += ["--config", settings]
        return subprocess.run(
            [sys.executable, *self._dying(at_step, "start", command)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def _dying(
        self, at_step: int | str, when: str, command: Sequence[str | Path]
    ) -> list[str | Path]:
        return [Path(dying.__file__), self.steps_file, str(at_step), when, *command]

    def steps(self) -> list[str]:
        """What was counted the last time, first step first."""
        return [line.partition(" ")[2] for line in self.steps_file.read_text().splitlines()]

    # --- looking --------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        path = self._directory / "applier" / "instances" / NAME / "instance.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    @property
    def was_opened(self) -> bool:
        """Whether PostgreSQL has begun to leave recovery."""
        return not (self.pair.standby_directory(NAME) / "standby.signal").exists()

    def wait_end_or_following(self) -> bool:
        """Wait until a dying applier is dead (True), or follows without having got there."""

        def ended() -> str:
            if not self.pair.applier.is_running:
                return "dead"
            with contextlib.suppress(LogshipError):
                if self.pair.status(NAME)["phase"] == "following":
                    return "following"
            return ""

        return wait_until(ended, PATIENCE_SECONDS, "its death, nor does it follow") == "dead"

    def wait_end_or_record(self) -> None:
        """Wait until a dying applier is dead, or has promoted for it had fewer steps."""

        def ended() -> bool:
            return not self.pair.applier.is_running or self.record()["promotion"] is not None

        wait_until(ended, PATIENCE_SECONDS, "its death or its end")

    def wait_fenced(self) -> None:
        """Wait until the shipper says that it is fenced."""
        shipper = self.pair.shippers[NAME]
        wait_until(
            lambda: any(event.get("code") == "fenced" for event in shipper.events()),
            PATIENCE_SECONDS,
            "the old line's shipper is told",
        )

    def wait_answering(self) -> None:
        def answers() -> bool:
            with contextlib.suppress(LogshipError):
                self.pair.status(NAME)
                return True
            return False

        wait_until(answers, PATIENCE_SECONDS, "the applier answers")

    def check_open(self) -> None:
        """Promoted and on record, whole, and taking writes and clients."""
        self.pair.wait_status(NAME, lambda s: s["phase"] == "promoted", "promoted by itself")
        record = self.record()
        assert record["fence"] is not None
        assert record["promotion"]["opened_timeline"] > 1
        try:
            wait_until(
                self._takes_writes, PATIENCE_SECONDS, "the opened server takes a client's write"
            )
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self._refusal}") from None
        assert self.pair.standby_sql(NAME, COUNT) == [(ROWS + 1,)]
        assert self.pair.standby_sql(
            NAME,
            "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int",
        ) == [(record["promotion"]["opened_timeline"],)]

    def _takes_writes(self) -> bool:
        """By the rules of the primary's pg_hba.conf, which lets this host in over TCP."""
        try:
            with psycopg.connect(
                host="127.0.0.1",
                port=self.pair.standby_ports[NAME],
                user="postgres",
                dbname="postgres",
                connect_timeout=5,
            ) as connection:
                connection.execute("insert into t (v) values ('after')")
        except psycopg.OperationalError as error:
            self._refusal = str(error)
            return False
        return True


def spread(steps: int, at_most: int) -> list[int]:
    """Step numbers 1 … steps + 1 (that one never comes), evenly thinned to `at_most`."""
    every = list(range(1, steps + 2))
    if len(every) <= at_most:
        return every
    stride = (len(every) - 1) / (at_most - 1)
    return [every[round(index * stride)] for index in range(at_most)]

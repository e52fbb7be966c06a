"""One round: everything up, the plan's faults, the loss of the primary, promotion, judgement."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from logship.errors import LogshipError
from logship.lsn import Lsn
from logship.postgres.postmaster import running_postmaster
from logship.status import InstanceStatus
from tests.support.clusters import ClusterTemplates
from tests.support.installations import postgres_dir
from tests.support.pair import Pair
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until
from tests.torture.contact import Contact
from tests.torture.disk import SmallDisk
from tests.torture.judge import Violation, judge
from tests.torture.network import Network
from tests.torture.plan import Fault, Plan
from tests.torture.processes import GIVES_UP, SteppedProcess, freeze, kill_server, thaw
from tests.torture.writers import SCHEMA, Observer, Writer

NAME = "main"
PATIENCE_SECONDS = 120.0

FORBIDDEN_CODES = frozenset(
    {"wal-conflict", "bad-wal-page", "store-damaged", "internal", "history-conflict"}
)
"""Nothing that a round does may bring these into a log."""

Say = Callable[[str], None]


class Round:
    """Make it, `run` it, and `destroy` it in any case: one that can't be made leaves no mount."""

    def __init__(self, plan: Plan, directory: Path, templates: ClusterTemplates, say: Say) -> None:
        self.plan = plan
        self.skipped: list[str] = []
        """Faults that this machine does not permit, and why."""
        self._directory = directory
        self._say = say
        self._began_at = time.monotonic()
        self._disk = self._make_disk()
        with contextlib.ExitStack() as undo:
            if self._disk is not None:
                undo.callback(self._disk.unmount)
            self.pair = Pair(directory, keep_free_mb=20 if self._disk is not None else 1)
            self.pair.applier = SteppedProcess(
                "applier", self.pair.applier.settings, self.pair.applier.log_file
            )
            self._primary = PrimaryServer.create(
                postgres_dir(plan.major),
                directory / "primary",
                wal_segsize_mb=plan.wal_segsize_mb,
                settings={"min_wal_size": f"{2 * plan.wal_segsize_mb}MB", "max_wal_size": "64MB"},
                templates=templates,
            )
            self._network = Network(self.pair.link_port)
            undo.pop_all()
        self._shipper: SteppedProcess
        self._stop_writing = threading.Event()
        self._writers = [
            Writer(number, self._primary.dsn(), plan.seed, self._stop_writing)
            for number in range(1, plan.writers + 1)
        ]
        self._observer = Observer(self._primary.dsn(), self._stop_writing)
        self._contact = Contact(self._status, self._primary.dsn(), self._stop_writing)
        self._wanted = {"shipper": True, "applier": True}
        self._frozen: dict[str, list[int]] = {}
        self._disk_failed = False
        self._promoter = 0
        """The number of the applier's process that promoted; 0: that was done offline."""

    # --- the whole ------------------------------------------------------------------------

    def run(self) -> str:
        """Returns what was found.  Raises Violation, or what else went wrong, with the logs."""
        try:
            self._set_up()
            self._live_through_faults()
            self._lose_primary()
            record = self._promote()
            found = self._judge(record)
            if self.plan.old_line_returns:
                self._old_line_returns(record)
            self._check_logs()
        except BaseException as error:
            error.add_note(f"{self.plan}\n{self._last_words()}")
            raise
        return found

    def destroy(self) -> None:
        self._stop_writing.set()
        for processes in self._frozen.values():
            thaw(processes)
        self._primary.destroy()
        self.pair.destroy()
        for thread in (*self._writers, self._observer, self._contact):
            if thread.is_alive():
                thread.join(30)
        self._network.close()
        if self._disk is not None:
            self._disk.unmount()
        shutil.rmtree(self._directory, ignore_errors=True)

    # --- before ---------------------------------------------------------------------------

    def _make_disk(self) -> SmallDisk | None:
        if not any(fault.target == "disk" for fault in self.plan.faults):
            return None
        disk = SmallDisk(self._directory / "applier")
        try:
            disk.mount()
        except PermissionError as error:
            self.skipped.append(f"disk faults: {error}")
            return None
        return disk

    def _set_up(self) -> None:
        pair, primary = self.pair, self._primary
        primary.start()
        primary.execute(SCHEMA)
        pair.add(NAME)
        made = pair.shipper(
            NAME,
            primary.dsn(),
            protection=self.plan.protection,
            address=self._network.endpoint,
        )
        self._shipper = SteppedProcess("shipper", made.settings, made.log_file)
        pair.shippers[NAME] = self._shipper
        pair.applier.start()
        self._shipper.start()
        pair.wait_following(NAME)
        if self.plan.protection == "sync":
            primary.execute("alter system set synchronous_standby_names = 'logship_main'")
            primary.reload()
            wait_until(self._is_sync, PATIENCE_SECONDS, "sync in effect")
        for thread in (*self._writers, self._observer, self._contact):
            thread.start()
        self._say(f"set up in {self._elapsed():.1f} s")

    def _status(self) -> tuple[InstanceStatus, int]:
        """For `Contact`."""
        before = self.pair.applier.pid
        status = self.pair.status(NAME)
        return status, before if before == self.pair.applier.pid else 0

    def _is_sync(self) -> bool:
        # Without the setting a commit would not wait, and its loss would be no violation.
        return self._primary.execute(
            "select sync_state, current_setting('synchronous_standby_names')"
            " from pg_stat_replication where application_name = 'logship_main'"
        ) == [("sync", "logship_main")]

    # --- faults ---------------------------------------------------------------------------

    def _live_through_faults(self) -> None:
        steps: list[tuple[float, Callable[[], None]]] = []
        for fault in self.plan.faults:
            if fault.target == "disk" and self._disk is None:
                continue
            steps.append((fault.at_seconds, functools.partial(self._begin, fault)))
            if fault.seconds:
                end = fault.at_seconds + fault.seconds
                steps.append((end, functools.partial(self._end, fault)))
        began_at = time.monotonic()
        for at_seconds, act in sorted(steps, key=lambda step: step[0]):
            if at_seconds > self.plan.seconds and not self.plan.calm_end:
                break
            self._wait(began_at + at_seconds)
            act()
        self._wait(began_at + self.plan.seconds)
        if self.plan.calm_end:
            self._catch_up()

    def _wait(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            self._supervise()
            time.sleep(min(left, 0.05))

    def _supervise(self) -> None:
        for process in (self._shipper, self.pair.applier):
            if self._wanted[process.program] and not process.is_running:
                status = process.wait()
                if not (process.program == "applier" and self._disk_failed):
                    raise Violation(f"the {process.program} ended by itself, status {status}")
                if status in GIVES_UP:
                    raise Violation(f"the applier gave up with {status}: it stays down")
                process.start()

    def _begin(self, fault: Fault) -> None:
        self._say(str(fault))
        match fault.target:
            case "shipper" | "applier":
                self._disturb_process(fault)
            case "standby":
                self._disturb_standby(fault)
            case "primary":
                if fault.kind == "kill":
                    self._primary.kill()
                else:
                    self._frozen["primary"] = freeze(self._primary.pid)
            case "link":
                self._network.do(fault.kind, fault.amount)
            case "clocks":
                for process in (self._shipper, self.pair.applier):
                    assert isinstance(process, SteppedProcess)
                    process.step(fault.amount)
            case "disk":
                self._disturb_disk(fault)

    def _end(self, fault: Fault) -> None:
        if fault.kind == "stop":
            thaw(self._frozen.pop(fault.target, []))
            return
        match fault.target:
            case "shipper" | "applier":
                self._restart(fault.target)
            case "primary":
                self._primary.start()
            case "link":
                self._network.heal()
            case "disk":
                self._mend_disk()

    def _disturb_process(self, fault: Fault) -> None:
        process = self._process(fault.target)
        if not process.is_running:
            return  # ended by itself on a failed disk
        if fault.kind == "stop":
            os.kill(process.pid, signal.SIGSTOP)
            self._frozen[fault.target] = [process.pid]
            return
        self._wanted[fault.target] = False
        process.stop(signal.SIGKILL)

    def _restart(self, program: str) -> None:
        self._wanted[program] = True
        process = self._process(program)
        if not process.is_running:
            process.start()

    def _process(self, program: str) -> SteppedProcess:
        process = self._shipper if program == "shipper" else self.pair.applier
        assert isinstance(process, SteppedProcess)
        return process

    def _disturb_standby(self, fault: Fault) -> None:
        data = self.pair.standby_directory(NAME)
        if fault.kind == "kill":
            kill_server(data)
            return
        found = running_postmaster(data)
        if found is not None:
            self._frozen["standby"] = freeze(found.pid)

    def _disturb_disk(self, fault: Fault) -> None:
        assert self._disk is not None
        self._disk_failed = True
        if fault.kind == "full":
            self._disk.fill()
        else:
            self._disk.break_down()

    def _mend_disk(self) -> None:
        """Room again; or, for a file system that failed, what an operator's reboot does."""
        assert self._disk is not None
        self._disk.empty_if_writable()
        if not self._disk.is_broken:
            return
        self._wanted["applier"] = False
        self.pair.applier.stop(signal.SIGKILL)
        kill_server(self.pair.standby_directory(NAME))
        self._disk.repair()
        self._restart("applier")

    def _catch_up(self) -> None:
        """Progress, once faults have stopped."""
        self._end_all_faults()
        target = Lsn.parse(self._primary.current_wal_lsn())

        def caught_up() -> bool:
            self._supervise()
            try:
                status = self.pair.status(NAME)
            except LogshipError:
                return False
            seconds = status["transfer_gap"]["seconds"]
            if seconds is not None and not 0 <= seconds < PATIENCE_SECONDS:
                raise Violation(f"a transfer gap of {seconds} seconds: which clock is that?")
            replayed = status["standby"]["replay_lsn"]
            heard = status["primary"]["flush_lsn"]
            return all(lsn is not None and Lsn.parse(lsn) >= target for lsn in (replayed, heard))

        began_at = time.monotonic()
        wait_until(caught_up, PATIENCE_SECONDS, f"{target} heard and replayed after the faults")
        self._say(f"calm: caught up after {time.monotonic() - began_at:.1f} s")
        time.sleep(0.3)

    def _end_all_faults(self) -> None:
        for processes in self._frozen.values():
            thaw(processes)
        self._frozen.clear()
        self._network.heal()
        if self._disk is not None:
            self._mend_disk()
        for program in self._wanted:
            self._restart(program)
        if not self._primary.is_running:
            self._primary.start()

    # --- the day --------------------------------------------------------------------------

    def _lose_primary(self) -> None:
        self._primary.kill()
        self._stop_writing.set()
        self._say("the primary is lost")
        # An applier that is frozen answers nobody who asks for its status.
        for name in ("shipper", "applier", "standby"):
            thaw(self._frozen.pop(name, []))
        for thread in (*self._writers, self._observer, self._contact):
            thread.join(PATIENCE_SECONDS)
            if thread.is_alive():
                raise AssertionError(f"{thread.name} hangs")
        for failure in (*(writer.failure for writer in self._writers), self._contact.failure):
            if failure is not None:
                raise failure
        if self._disk is not None:
            self._mend_disk()
        if self.plan.offline:
            self._wanted["applier"] = False
            if self.pair.applier.is_running:
                self.pair.applier.stop(signal.SIGKILL)
        if self.plan.lose_standby:
            kill_server(self.pair.standby_directory(NAME))
        if not self.plan.offline:
            self._restart("applier")

    def _promote(self) -> dict[str, Any]:
        began_at = time.monotonic()
        if self.plan.offline:
            done = self.pair.command(
                *("shipper", "promote", NAME, "--offline", "--json"),
                *("--config", self.pair.applier.settings),
            )
            if done.returncode != 0:
                raise Violation(f"promotion failed: {done.stdout}\n{done.stderr}")
            record: dict[str, Any] = json.loads(done.stdout)
        else:
            self.pair.wait_status(NAME, lambda status: True, "the applier answers")
            self._promoter = self.pair.applier.pid
            record = self.pair.promote(NAME)
        self._say(f"promoted after {time.monotonic() - began_at:.1f} s: {record['lost']}")
        return record

    def _judge(self, record: dict[str, Any]) -> str:
        acknowledged = [one for writer in self._writers for one in writer.acknowledged]
        found = judge(
            self.plan.protection,
            acknowledged,
            self._observer.told_durable,
            self._contact.shown_by(self._promoter),
            record,
            lambda sql, *parameters: self.pair.standby_sql(NAME, sql, *parameters),
        )
        self._say(found)
        return found

    def _old_line_returns(self, record: dict[str, Any]) -> None:
        """Nothing of it is accepted, and what was heard of it was true."""
        before = self.pair.standby_sql(NAME, "select count(*) from journal")
        self._network.heal()
        self._restart("applier")
        self._primary.start()
        end = Lsn.parse(self._primary.current_wal_lsn())
        if record["heard"]["lsn"] > end:
            raise Violation(f"heard {Lsn(record['heard']['lsn'])}, the primary ended at {end}")
        # Started anew, as one that was fenced already asks again only now and then.
        self._shipper.stop(signal.SIGKILL)
        fenced = len(self._fenced())
        self._shipper.start()
        # Not a commit: under sync that would wait for ever now.
        self._primary.execute("select pg_switch_wal()")
        wait_until(
            lambda: len(self._fenced()) > fenced,
            PATIENCE_SECONDS,
            "the old line's shipper is fenced",
        )
        status = self.pair.status(NAME)
        store = str(status["store"]["durable"])
        if status["phase"] != "promoted" or Lsn.parse(store.split(":")[1]) > end:
            raise Violation(f"after the promotion the store went on to {store}")
        if self.pair.standby_sql(NAME, "select count(*) from journal") != before:
            raise Violation("the promoted server changed when the old line came back")
        self._say("the old line came back and was fenced")

    def _fenced(self) -> list[dict[str, Any]]:
        return [event for event in self._shipper.events() if event.get("code") == "fenced"]

    # --- what was said --------------------------------------------------------------------

    def _check_logs(self) -> None:
        for process in (self._shipper, self.pair.applier):
            if "Traceback" in process.log:
                raise Violation(f"a bug in the {process.program}:\n{process.log[-4000:]}")
            for event in process.events():
                if event.get("code") in FORBIDDEN_CODES:
                    raise Violation(f"the {process.program} said {json.dumps(event)}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._began_at

    def _last_words(self) -> str:
        lines = []
        for process in (getattr(self, "_shipper", None), self.pair.applier):
            if process is not None:
                lines += process.last_words(process.program, 40)
        with contextlib.suppress(OSError, ValueError):
            log = self.pair.standby_directory(NAME).parent / "standby" / "postgresql.log"
            lines += [f"standby: {line}" for line in log.read_text().splitlines()[-30:]]
        lines += [f"primary: {line}" for line in self._primary.log.splitlines()[-10:]]
        with contextlib.suppress(LogshipError, subprocess.SubprocessError):
            lines.append(json.dumps(self.pair.status(NAME), indent=1))
        return "\n".join(lines)

"""A PostgreSQL server as a process: started, found again, stopped, reloaded, promoted.

A server started here is nobody's child: pg_ctl puts it into a session of its own with its
output in a file, and ends; so the server outlives us, and whoever comes next finds it by its
data directory.  Everything is done as pg_ctl does it (`src/bin/pg_ctl/pg_ctl.c`), signals and
all, but never to a process that isn't this data directory's postmaster.

All methods block: call them in a thread.  They hold no state, so any two may run at a time.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Literal

import structlog

from logship import durable
from logship.errors import Code, LogshipError
from logship.postgres.control_file import CONTROL_FILE, State, read_control_file
from logship.postgres.installations import Installation
from logship.postgres.postmaster import (
    PidFile,
    Status,
    running_postmaster,
    stale_locks,
)
from logship.postgres.run_as import RunAs

log = structlog.get_logger(__name__)

StopMode = Literal["smart", "fast", "immediate"]
_STOP_SIGNALS: Final[dict[StopMode, signal.Signals]] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_PROMOTE_FILE = "promote"  # PROMOTE_SIGNAL_FILE
_POLL_SECONDS = 0.02
_LOG_TAIL_BYTES = 64 * 1024
_FAILURE = re.compile(r"\b(?:FATAL|PANIC):  (?!the database system is )")  # that is to clients
_MORE = re.compile(r"\b(?:DETAIL|HINT|CONTEXT):  ")
# A standby that has no WAL at all yet waits for its first checkpoint record, and nothing tells
# so but that it goes on; one that can't start for any other reason ends well within this.
_SETTLED_SECONDS = 1.0
_STANDBY_FILE = "standby.signal"  # STANDBY_SIGNAL_FILE


class Wait(Enum):
    """What `start` waits for."""

    RECOVERING = "recovering"
    """A standby that replays, consistent or not; or anything that is READY."""
    READY = "ready"
    """It takes connections (with `hot_standby` off: it replays).

    A standby does so only once it is consistent, for which it may need WAL that is yet to come.
    """


@dataclass(frozen=True)
class Server:
    """The server of one data directory, running or not."""

    installation: Installation
    data_directory: Path
    run_as: RunAs

    def start(
        self,
        *,
        config_file: Path,
        hba_file: Path,
        log_file: Path,
        timeout_seconds: float = 60.0,
        wait: Wait = Wait.RECOVERING,
    ) -> int:
        """Start it, wait as `wait` says, and return its process id.

        If it runs already, it is left as it is and only waited for.  `log_file` gets its
        output; the account of `run_as` must be able to write it.

        Raises LogshipError(STANDBY_FAILED): it ended, with its own last words; or (retryable)
        it is not as far after `timeout_seconds`, in which case it goes on starting.
        """
        started_at = time.monotonic()
        deadline = started_at + timeout_seconds
        if self.running_pid() is not None:
            return self._wait_for_running(wait, log_file, deadline)
        self._remove_stale_locks()
        log_offset_bytes = _size_bytes(log_file)
        control_mtime_ns = self._control_mtime_ns()
        options = f"-c config_file={_quoted(config_file)} -c hba_file={_quoted(hba_file)}"
        try:
            launcher = subprocess.Popen(
                [
                    *(self.installation.bin_dir / "pg_ctl", "start", "-D", self.data_directory),
                    *("-w", "-t", str(int(timeout_seconds) + 1), "-l", log_file, "-o", options),
                ],
                cwd=self.data_directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us: pg_ctl would end the server
                env=self.run_as.environment(),
                **self.run_as.subprocess_arguments(),
            )
        except OSError as error:
            raise _failed(
                f"PostgreSQL can't be started in {self.data_directory}: {error}",
                f"check that {self.run_as.name} may enter the directory and run the program",
            ) from error
        try:
            while launcher.poll() is None:
                if wait is Wait.RECOVERING and self._recovers(started_at, control_mtime_ns):
                    break
                if time.monotonic() >= deadline:
                    raise self._too_slow(timeout_seconds, log_file, log_offset_bytes)
                time.sleep(_POLL_SECONDS)
        finally:
            # pg_ctl only waits by now: ended by SIGTERM, it leaves the server alone.
            launcher.terminate()
            _, said = launcher.communicate()
        found = running_postmaster(self.data_directory)
        if launcher.returncode > 0 or found is None:
            raise self._did_not_start(log_file, log_offset_bytes, said)
        return found.pid

    def running_pid(self) -> int | None:
        """The postmaster's process id, whoever started it; None if none runs.

        A postmaster.pid that another process's id stands in by now does not count.
        """
        found = running_postmaster(self.data_directory)
        return found.pid if found is not None else None

    def runs_other_program(self) -> bool:
        """Whether the server, which runs, is not of the program that the installation has now:
        of another installation, or of this one before a package upgrade replaced its files.

        Where its executable can't be looked at (root without CAP_SYS_PTRACE), by
        `postmaster.opts` (`CreateOptsFile` in postmaster.c), which tells the path only.
        """
        ours = self.installation.bin_dir / "postgres"
        found = running_postmaster(self.data_directory)
        if found is not None:
            try:
                return not os.path.samestat(ours.stat(), Path(f"/proc/{found.pid}/exe").stat())
            except PermissionError:
                pass
            except OSError:
                return True
        try:
            text = (self.data_directory / "postmaster.opts").read_text(errors="replace")
        except FileNotFoundError:
            return True
        words = shlex.split(text)
        return not words or Path(words[0]).resolve() != ours.resolve()

    def status(self) -> Status:
        """What the running server says of itself; STOPPED if none runs."""
        found = running_postmaster(self.data_directory)
        return found.status if found is not None else Status.STOPPED

    def stop(self, mode: StopMode = "fast", timeout_seconds: float = 60.0) -> bool:
        """See `stop_server`."""
        return stop_server(self.data_directory, mode, timeout_seconds)

    def reload(self) -> bool:
        """Have it read its configuration files again; False if it does not run."""
        with _process_of(self.data_directory) as process:
            if process is None:
                return False
            return _send(process, signal.SIGHUP)

    def promote(self) -> None:
        """Ask the standby to end recovery, without SQL.  It then replays what it has received.

        Returns at once; the control file's state becomes IN_PRODUCTION when it is open.

        Raises LogshipError(PROMOTE_FAILED): it does not run, or is no standby.
        """
        with _process_of(self.data_directory) as process:
            if process is None:
                raise LogshipError(
                    Code.PROMOTE_FAILED,
                    f"no server runs in {self.data_directory}",
                    "start it, then promote",
                )
            state = read_control_file(self.data_directory).state
            if state is not State.IN_ARCHIVE_RECOVERY:
                raise LogshipError(
                    Code.PROMOTE_FAILED,
                    f"the server in {self.data_directory} is no standby ({state.name.lower()})",
                    "if it is in_production it is open already",
                )
            request = self.data_directory / _PROMOTE_FILE
            self._make_for_server(request)
            if not _send(process, signal.SIGUSR1):
                request.unlink(missing_ok=True)
                raise LogshipError(
                    Code.PROMOTE_FAILED,
                    f"the server in {self.data_directory} ended just now",
                    "see its log, start it, then promote",
                    retryable=True,
                )

    # --- inside ---------------------------------------------------------------------------

    def _make_for_server(self, path: Path) -> None:
        """An empty file in the server's directory, which belongs to its account: whatever link
        is there is not followed.  Raises LogshipError(PROMOTE_FAILED)."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LogshipError(
                Code.PROMOTE_FAILED,
                f"{path} can't be made: {error.strerror or error}",
                "remove what stands there, then promote",
            ) from error
        try:
            if self.run_as.changes:
                os.fchown(fd, self.run_as.uid, self.run_as.gid)
        finally:
            os.close(fd)

    def _remove_stale_locks(self) -> None:
        for lock in stale_locks(self.data_directory):
            log.warning("A dead server's lock file is removed", path=str(lock))
            durable.remove(lock)

    def _recovers(self, started_at: float, control_mtime_ns: int) -> bool:
        """Whether it replays by now.  What the control file's time was before it was started
        tells; the clock may be stepped at any moment, so no time of day is compared."""
        found = running_postmaster(self.data_directory)
        if found is None:
            return False
        if found.status in (Status.READY, Status.STANDBY):
            return True
        if time.monotonic() - started_at >= _SETTLED_SECONDS:
            return (self.data_directory / _STANDBY_FILE).exists()
        with contextlib.suppress(LogshipError):
            # The state alone may be left from before: it is written anew when recovery starts.
            written_anew = self._control_mtime_ns() != control_mtime_ns
            state = read_control_file(self.data_directory).state
            return written_anew and state is State.IN_ARCHIVE_RECOVERY
        return False

    def _control_mtime_ns(self) -> int:
        try:
            return (self.data_directory / CONTROL_FILE).stat().st_mtime_ns
        except OSError:
            return 0

    def _wait_for_running(self, wait: Wait, log_file: Path, deadline: float) -> int:
        log_offset_bytes = max(0, _size_bytes(log_file) - _LOG_TAIL_BYTES)
        seconds = deadline - time.monotonic()
        while True:
            found = running_postmaster(self.data_directory)
            if found is None:
                raise self._did_not_start(log_file, log_offset_bytes, b"")
            if self._is_far_enough(found, wait):
                return found.pid
            if time.monotonic() >= deadline:
                raise self._too_slow(seconds, log_file, log_offset_bytes)
            time.sleep(_POLL_SECONDS)

    def _is_far_enough(self, found: PidFile, wait: Wait) -> bool:
        if found.status in (Status.READY, Status.STANDBY):
            return True
        return wait is Wait.RECOVERING and self._recovers(0.0, 0)

    def _too_slow(self, seconds: float, log_file: Path, log_offset_bytes: int) -> LogshipError:
        words = "; ".join(last_words(log_file, log_offset_bytes)) or "nothing yet"
        return _failed(
            f"PostgreSQL in {self.data_directory} is not ready after {seconds:.0f} s; "
            f"its log says: {words}",
            f"it may still come up; see {log_file}",
            retryable=True,
        )

    def _did_not_start(self, log_file: Path, log_offset_bytes: int, said: bytes) -> LogshipError:
        words = last_words(log_file, log_offset_bytes)
        if not words:
            words = said.decode("utf-8", "replace").strip().splitlines()[-2:]
        return _failed(
            f"PostgreSQL in {self.data_directory} did not start: "
            f"{'; '.join(words) or 'it said nothing'}",
            f"see {log_file}",
        )


def stop_server(
    data_directory: Path, mode: StopMode = "fast", timeout_seconds: float = 60.0
) -> bool:
    """Stop whatever server runs in `data_directory` and wait for its end; False if none did.

    Raises LogshipError(STANDBY_FAILED, retryable) if it still runs after `timeout_seconds`; it
    goes on stopping.
    """
    with _process_of(data_directory) as process:
        if process is None:
            return False
        _send(process, _STOP_SIGNALS[mode])
        end = select.poll()
        end.register(process, select.POLLIN)  # readable once the process ended
        if not end.poll(timeout_seconds * 1000):
            raise _failed(
                f"PostgreSQL in {data_directory} did not stop ({mode}) within "
                f"{timeout_seconds:g} s",
                "stop it with mode immediate; it then recovers at its next start",
                retryable=True,
            )
    return True


@contextlib.contextmanager
def _process_of(data_directory: Path) -> Iterator[int | None]:
    """A pidfd of the running postmaster: its process id can't come to mean another."""
    found = running_postmaster(data_directory)
    handle: int | None = None
    if found is not None:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(found.pid)
    try:
        # Between the look and the opening it may have ended.
        still = running_postmaster(data_directory)
        same = found is not None and still is not None and still.pid == found.pid
        yield handle if same else None
    finally:
        if handle is not None:
            os.close(handle)


def last_words(log_file: Path, from_offset_bytes: int = 0) -> list[str]:
    """Why the server ended, in its own words: the last FATAL or PANIC in its log, with the
    line before it (the reason, when the configuration is wrong) and its details.  Without
    one: the log's last lines.

    Looks at what the log got from `from_offset_bytes` on, 64 KiB of it at most.
    """
    try:
        with open(log_file, "rb") as file:
            size_bytes = file.seek(0, os.SEEK_END)
            file.seek(max(min(from_offset_bytes, size_bytes), size_bytes - _LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    failures = [index for index, line in enumerate(lines) if _FAILURE.search(line)]
    if not failures:
        return lines[-3:]
    last = failures[-1]
    end = last + 1
    while end < len(lines) and _MORE.search(lines[end]):
        end += 1
    return lines[max(0, last - 1) : end]


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))  # pg_ctl passes its options through a shell


def _send(process: int, number: signal.Signals) -> bool:
    """Send a signal; False if the process ended meanwhile."""
    try:
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return False
    return True


def _failed(what: str, hint: str, *, retryable: bool = False) -> LogshipError:
    return LogshipError(Code.STANDBY_FAILED, what, hint, retryable=retryable)

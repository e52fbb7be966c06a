"""Runs in a container of a rehearsal, by the container's own Python, and does there what the
container engine can't: a program's end by a time limit, signals to all that it started, files of
the account.

Only the standard library, of any Python from 3.9 on: it is called by its path, beside no package.

    probe                     what the image is, as JSON
    prepare HOME ACCOUNT      as root: the account and its home, as JSON its numbers
    run SECONDS BYTES -- …    a program to its end, with that many bytes of stdin
    start PID LOG -- …        becomes the program; its number is in the file PID, its words in LOG
    stop PID SECONDS          SIGTERM, and SIGKILL when the time is over
    kill MARK                 SIGKILL to all that has this mark, and to all that they started
    write PATH MODE BYTES     a file, from stdin
    read PATH                 a file, to stdout
    directory PATH            a directory and those above it
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

MARK = "LOGSHIP_REHEARSAL_PROCESS"
"""The environment variable by which all that a started program started is known."""

GO = b"\n"
"""What all but `probe` and `start` wait for on stdin, before they do or print anything."""

TIMED_OUT = 124
NOT_RUNNABLE = 126
NOT_FOUND = 127
NO_SUCH_FILE = 44

_POLL_SECONDS = 0.02
_PID_FILE_SECONDS = 10.0
_KILL_ROUNDS = 50
# Where packages of PostgreSQL put it: Debian, the PGDG's RPMs, images built from source.
_PLACES = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "usr/local/bin", "usr/local/pgsql/bin")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+\.\d+)(?![\w.])")
_FIRST_UID = 800


def probe() -> int:
    """What `images.Probed` says of the image."""
    print(
        json.dumps(
            {
                "python": list(sys.version_info[:2]),
                "machine": platform.machine(),
                "operating_system": _operating_system(),
                "libc": _libc(),
                "installations": _installations(),
            }
        )
    )
    return 0


def _operating_system() -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip().strip("\"'")
    return ""


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def _installations() -> dict[str, str]:
    found: dict[str, str] = {}
    for place in _PLACES:
        for directory in sorted(Path("/").glob(place)):
            version = _version_of(directory / "postgres")
            if version:
                found.setdefault(version, str(directory))
    return found


def _version_of(program: Path) -> str:
    if not program.is_file():
        return ""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    match = _VERSION.search(answer.stdout)
    return match[1] if match else ""


def prepare(home: str, account: str) -> int:
    """The account is made if the image has none; all below `home` becomes its own."""
    try:
        entry = pwd.getpwnam(account)
    except KeyError:
        _make_account(account, home)
        entry = pwd.getpwnam(account)
    place = Path(home)
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o755)
    state = place.stat()
    if (state.st_uid, state.st_gid) != (entry.pw_uid, entry.pw_gid):
        for directory, names, files in os.walk(home):
            for name in names + files:
                path = os.path.join(directory, name)  # noqa: PTH118 (a walk of many files)
                os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
        os.chown(home, entry.pw_uid, entry.pw_gid)
    print(json.dumps({"uid": entry.pw_uid, "gid": entry.pw_gid}))
    return 0


def _make_account(account: str, home: str) -> None:
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    uid = next(number for number in range(_FIRST_UID, _FIRST_UID + 100) if number not in taken)
    with open("/etc/passwd", "a", encoding="utf-8") as file:
        file.write(f"{account}:x:{uid}:{uid}::{home}:/bin/sh\n")
    with open("/etc/group", "a", encoding="utf-8") as file:
        file.write(f"{account}:x:{uid}:\n")


def run(seconds: str, size: str, *command: str) -> int:
    """What it prints goes to files first: what it leaves running can't keep our own open."""
    given = sys.stdin.buffer.read(int(size)) if int(size) else b""
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        stdin.write(given)
        stdin.seek(0)
        try:
            program = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
            )
        except OSError as error:
            return _not_run(command[0], error)
        try:
            status = program.wait(float(seconds))
        except subprocess.TimeoutExpired:
            _kill_all({program.pid})
            program.wait()
            status = TIMED_OUT
        for file, out in ((stdout, sys.stdout.buffer), (stderr, sys.stderr.buffer)):
            file.seek(0)
            shutil.copyfileobj(file, out)
            out.flush()
    return status if status >= 0 else 128 - status


def start(pid_file: str, log_file: str, *command: str) -> int:
    """Returns only if the program can't be run."""
    Path(log_file).parent.mkdir(parents=True, exist_ok=True)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if os.getpid() != os.getsid(0):
        os.setsid()
    written = Path(f"{pid_file}.new")
    written.write_text(str(os.getpid()), encoding="ascii")
    written.rename(pid_file)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        return _not_run(command[0], error)


def _not_run(program: str, error: OSError) -> int:
    """As a shell says it."""
    print(f"{program}: {error.strerror}", file=sys.stderr)
    return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUNNABLE


def stop(pid_file: str, seconds: str) -> int:
    """Returns when the program has ended."""
    end = time.monotonic() + _PID_FILE_SECONDS
    while not Path(pid_file).exists() and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    pid = int(Path(pid_file).read_text(encoding="ascii"))
    end = time.monotonic() + float(seconds)
    _signal(pid, signal.SIGTERM)
    while _is_running(pid):
        if time.monotonic() > end:
            _signal(pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    return 0


def kill(mark: str) -> int:
    """They are frozen first, so that none starts another meanwhile."""
    wanted = f"{MARK}={mark}".encode()
    _kill_all(
        {
            pid
            for pid in _processes()
            if pid != os.getpid() and wanted in _read(f"/proc/{pid}/environ").split(b"\0")
        }
    )
    return 0


def _kill_all(roots: set[int]) -> None:
    known: set[int] = set()
    found = roots
    for _ in range(_KILL_ROUNDS):
        fresh = found - known
        if not fresh:
            break
        for pid in fresh:
            _signal(pid, signal.SIGSTOP)
        known |= fresh
        parents = _processes()
        found = {pid for pid, parent in parents.items() if parent in known}
    for pid in known:
        _signal(pid, signal.SIGKILL)
    while any(_is_running(pid) for pid in known):
        time.sleep(_POLL_SECONDS)


def _processes() -> dict[int, int]:
    """Every process and its parent."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if fields:
                found[int(name)] = int(fields[1])
    return found


def _is_running(pid: int) -> bool:
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return bool(fields) and fields[0] not in (b"Z", b"X")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # it has ended, or is another account's
        return b""


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def write(path: str, mode: str, size: str) -> int:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = sys.stdin.buffer.read(int(size)) if int(size) else b""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    target.chmod(int(mode, 8))
    return 0


def read(path: str) -> int:
    try:
        with open(path, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
    except FileNotFoundError:
        return NO_SUCH_FILE
    return 0


def directory(path: str) -> int:
    Path(path).mkdir(parents=True, exist_ok=True)
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    each.__name__: each for each in (probe, prepare, run, start, stop, kill, write, read, directory)
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    if "--" in arguments:
        arguments.remove("--")
    if name not in ("probe", "start"):
        sys.stdin.buffer.read(len(GO))
    try:
        sys.exit(COMMANDS[name](*arguments))
    except OSError as problem:
        sys.exit(f"{name}: {problem}")

"""Running PostgreSQL's programs as a user that they accept, and killing them whole."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TypedDict

from logship.postgres.private_paths import PrivatePaths
from logship.postgres.run_as import RunAs
from tests.support.waiting import wait_until


class Identity(TypedDict, total=False):
    """The arguments of ``subprocess`` that choose the user."""

    user: int
    group: int
    extra_groups: list[int]


def server_account() -> pwd.struct_passwd | None:
    """Whom servers run as when we are root (PostgreSQL refuses root); None when we are not."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def server_identity() -> Identity:
    """``subprocess`` arguments to run a program as the servers' user."""
    account = server_account()
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def give_to_server(path: Path) -> None:
    """Make the servers' user the owner of a file or directory."""
    account = server_account()
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def make_server_directory(path: Path, mode: int = 0o700) -> None:
    """Make one directory that belongs to the servers' user."""
    path.mkdir(mode=mode)
    give_to_server(path)


def processes_below(directory: Path) -> list[str]:
    """What names something in `directory` in its command line, or stands in it."""
    place = f"{directory}/"
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            standing = str((entry / "cwd").readlink())
        except OSError:
            continue
        if place in command or standing.startswith(place):
            found.append(f"{entry.name} {command}")
    return found


def copy_tree(source: Path, destination: Path, leave_out: frozenset[str] = frozenset()) -> None:
    """Copy a data directory, owned by the servers' user, also while its server runs.

    Files that vanish meanwhile are passed over. Of the directories and files named in
    ``leave_out`` (relative to ``source``), directories come out empty and files do not come.
    """
    for directory, subdirectories, files in os.walk(source):
        here = Path(directory)
        relative = here.relative_to(source)
        target = destination / relative
        make_server_directory(target)
        if str(relative) in leave_out:
            subdirectories.clear()
            continue
        for name in files:
            if str(relative / name) in leave_out:
                continue
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(here / name, target / name)
                (target / name).chmod(0o600)
                give_to_server(target / name)


def run_as_server(command: Sequence[str | Path], directory: Path) -> None:
    """Run a program to its end as the servers' user; ``RuntimeError`` with what it said."""
    done = subprocess.run(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        **server_identity(),
    )
    if done.returncode != 0:
        name = Path(command[0]).name
        raise RuntimeError(f"{name} failed with {done.returncode}:\n{done.stdout}")


def server_run_as() -> RunAs:
    """The servers' user, as the program knows it."""
    account = server_account()
    return RunAs.of(account.pw_name if account is not None else None)


def start_as_server(
    command: Sequence[str | Path],
    directory: Path,
    log: IO[bytes],
    private_paths: PrivatePaths | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program as the servers' user in a process group of its own."""
    identity = server_identity()
    if private_paths is not None:
        # It changes to that user by itself, and becomes the program.
        command, identity = private_paths.command(server_run_as(), command), {}
    return subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        process_group=0,
        **identity,
    )


def kill_with_children(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process and its children, and return when none of them lives."""
    if process.poll() is not None:
        return
    # Stopped, it starts no child between the look and the kill.
    process.send_signal(signal.SIGSTOP)
    children = _children(process.pid)
    process.kill()
    process.wait(timeout=30)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    wait_until(
        lambda: not any(map(_is_alive, children)), 30, f"end of all children of {process.pid}"
    )


def with_children(pid: int) -> list[int]:
    """A process and what it started, while it lives."""
    return [pid, *_children(pid)]


def _children(pid: int) -> list[int]:
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listing.read_text(encoding="ascii").split()]


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def shared_memory_segments() -> set[str]:
    """Ids of all System V segments of the machine."""
    lines = Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]
    return {line.split()[1] for line in lines}

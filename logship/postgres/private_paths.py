"""A server that sees directories of ours at paths of its own, in a private mount namespace.

Replay of CREATE TABLESPACE wants the primary's path (`create_tablespace_directories` in
tablespace.c), which on this machine may not be there, or belong to another standby.  So the
server is started by a small program, this module, which makes a mount namespace and in it a root
of its own: everything of the machine's, and each wanted path bound to a directory of ours.
Nothing outside of the server sees any of it, and it ends with the server.

As root that takes CAP_SYS_ADMIN; otherwise a user namespace, in which the account keeps its own
number and any other looks like nobody's.  Where neither is permitted `why_not` says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from logship.postgres.run_as import RunAs

FAILED_STATUS = 70
"""Exit status of the program when the paths can't be had: the command was not run."""
_MAX_ENTRIES = 1000
"""Of a directory that gets a new entry in the server's view: each entry is a mount."""
_CHECK_SECONDS = 30.0

# <sched.h>, <sys/mount.h>, <sys/prctl.h>
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_BIND, _MS_REC, _MS_UNBINDABLE, _MS_SLAVE = 1 << 12, 1 << 14, 1 << 17, 1 << 19
_MNT_DETACH = 2
_PR_SET_DUMPABLE = 4


class PrivatePaths(NamedTuple):
    """What a server is to see.  root: an empty directory for the program to work on, in which
    nothing is left.  paths: absolute paths without links in them, each with the directory that
    the server finds there."""

    root: Path
    paths: Mapping[Path, Path]

    def command(self, run_as: RunAs, command: Sequence[str | Path]) -> list[str | Path]:
        """What runs `command` under the account of `run_as` with these paths.  It changes to the
        account itself: run it without `run_as.subprocess_arguments()`."""
        paths = {str(path): str(ours) for path, ours in self.paths.items()}
        return [*_program(run_as, str(self.root), paths), *command]


def why_not(run_as: RunAs) -> str:
    """Why no server of this account can have private paths here; "" if it can.  Blocks for some
    tens of milliseconds."""
    try:
        done = subprocess.run(
            [*_program(run_as, "/tmp", {}), "--check"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            timeout=_CHECK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return said[-1] if said else f"it ended with status {done.returncode}"


def sees(pid: int, path: Path, ours: Path) -> bool:
    """Whether the process finds our directory at `path`."""
    try:
        return os.path.samestat(Path(f"/proc/{pid}/root{path}").stat(), ours.stat())
    except OSError:
        return False


def _program(run_as: RunAs, root: str, paths: Mapping[str, str]) -> list[str]:
    account = [run_as.uid, run_as.gid, list(run_as.groups)]
    plan = json.dumps({"root": root, "paths": paths, "account": account})
    # Isolated: neither the environment nor the working directory, which is the account's, may
    # choose what root runs.
    return [sys.executable, "-I", "-m", __name__, plan]


# --- the program, a process of its own -----------------------------------------------------


class _Plan(NamedTuple):
    root: str
    paths: dict[str, str]
    account: tuple[int, int, list[int]]


def _main(arguments: list[str]) -> NoReturn:
    plan = _Plan(**json.loads(arguments[0]))
    command = arguments[1:]
    try:
        cwd = Path.cwd()
        _unshare(plan)
        _mount(None, "/", None, _MS_REC | _MS_SLAVE)
        _mount("tmpfs", plan.root, "tmpfs", 0, "mode=755")
        if command != ["--check"]:
            _enter(plan)
            os.chdir(cwd)
        if os.geteuid() != plan.account[0]:
            _become(plan)
        if command != ["--check"]:
            os.execv(command[0], command)
    except OSError as error:
        where = f" ({error.filename})" if error.filename is not None else ""
        print(f"no mounts of its own: {error.strerror}{where}", file=sys.stderr)
        sys.exit(FAILED_STATUS)
    sys.exit(0)


def _unshare(plan: _Plan) -> None:
    """Into a mount namespace in which we may mount."""
    libc = _libc()
    if os.geteuid() == 0 and libc.unshare(_CLONE_NEWNS) == 0:
        return
    if os.geteuid() != plan.account[0]:
        _become(plan)
        # After a change of account /proc/self is root's, unless the process may be dumped.
        libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    _check(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "user namespace")
    uid, gid, _ = plan.account
    # As bytes: this account may not be able to read a codec that Python would load for text.
    Path("/proc/self/setgroups").write_bytes(b"deny")
    Path("/proc/self/uid_map").write_bytes(b"%d %d 1" % (uid, uid))
    Path("/proc/self/gid_map").write_bytes(b"%d %d 1" % (gid, gid))


def _become(plan: _Plan) -> None:
    uid, gid, groups = plan.account
    os.setgroups(groups)
    os.setgid(gid)
    os.setuid(uid)


def _enter(plan: _Plan) -> None:
    """Make the new root in the tmpfs at `plan.root` and change to it."""
    # Else it would show itself again in what it shows of the machine.
    _mount(None, plan.root, None, _MS_UNBINDABLE)
    _mirror(Path("/"), plan)
    above = {_nearest_directory(Path(path)) for path in plan.paths}
    above -= {Path("/"), *map(Path, plan.paths)}
    for directory in sorted(above, key=lambda path: len(path.parts)):  # deeper ones are covered
        mode = stat.S_IMODE(directory.stat().st_mode)
        _mount("tmpfs", f"{plan.root}{directory}", "tmpfs", 0, f"mode={mode:o}")
        _mirror(directory, plan)
    # One that is below another one after that, which would cover it.
    for path, ours in sorted(plan.paths.items(), key=lambda item: len(Path(item[0]).parts)):
        Path(plan.root + path).mkdir(mode=0o755, parents=True, exist_ok=True)
        _mount(ours, plan.root + path, None, _MS_BIND | _MS_REC)
    old = Path(plan.root, ".machine")
    old.mkdir()
    _check(_libc().pivot_root(os.fsencode(plan.root), os.fsencode(old)), "pivot_root")
    os.chdir("/")
    _check(_libc().umount2(b"/.machine", _MNT_DETACH), "umount")
    Path("/.machine").rmdir()


def _nearest_directory(path: Path) -> Path:
    """`path`, or the nearest directory above it that is there."""
    return next(each for each in (path, *path.parents) if each.is_dir())


def _mirror(directory: Path, plan: _Plan) -> None:
    """Show in the new root, empty there, what is in `directory`; but not that root itself."""
    with os.scandir(directory) as found:
        entries = [entry for entry in found if entry.path != plan.root]
    if len(entries) > _MAX_ENTRIES:
        raise OSError(errno.E2BIG, f"more than {_MAX_ENTRIES} entries", str(directory))
    for entry in entries:
        shown = Path(plan.root + entry.path)
        with contextlib.suppress(FileNotFoundError):  # it went away meanwhile
            if entry.is_symlink():
                shown.symlink_to(Path(entry.path).readlink())
                continue
            if entry.is_dir(follow_symlinks=False):
                shown.mkdir()
            else:
                shown.touch(exist_ok=False)
            _mount(entry.path, str(shown), None, _MS_BIND | _MS_REC)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    done = _libc().mount(
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        None if data is None else data.encode(),
    )
    _check(done, target)


def _check(done: int, what: str) -> None:
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    _main(sys.argv[1:])

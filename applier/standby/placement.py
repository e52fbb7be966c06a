"""From a seed that is in place to a data directory that starts as our standby.

The server always reads `postgresql.auto.conf` from its data directory, whatever
configuration file it was started with, so the primary's must not stay there.  The primary's
other files do no harm where they are; copies are kept beside it, for the day of promotion.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from applier.standby.layout import StandbyLayout
from logship import durable
from logship.errors import Code, LogshipError
from logship.postgres.control_file import State, read_control_file
from logship.postgres.run_as import RunAs

_AUTO_CONF = "postgresql.auto.conf"
_COPIED = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")
# Of auto.conf a crash may have come after the original was taken out of the data directory.
# The others an operator may have put there, as a Debian primary keeps them in /etc.
_KEPT_WITHOUT_ORIGINAL = frozenset({_AUTO_CONF, "pg_hba.conf", "pg_ident.conf"})
_INCLUDE = re.compile(
    r"^\s*include(?:_if_exists|_dir)?(?:\s*=\s*|\s+|(?='))'?([^'#\s]+)'?", re.IGNORECASE
)

# Ours hold no secrets and stand in a directory that only their reader and root can enter.
_READABLE = 0o644


class Placement(NamedTuple):
    """kept: names of the primary's configuration files that are in `standby/primary`.
    missing: those that the seed did not bring (Debian keeps them in /etc).  includes: files
    that the primary's configuration includes, as written there: nothing collects them."""

    kept: tuple[str, ...]
    missing: tuple[str, ...]
    includes: tuple[str, ...]


def prepare(layout: StandbyLayout, run_as: RunAs) -> Placement:
    """Make a seed's data directory a standby.  Call it once the seed is complete and synced.

    Durable when it returns, may be called again after a crash at any moment, and writes no
    configuration (`Standby` does at each start).  Blocks for some fsyncs: call it in a thread.

    Raises LogshipError(STANDBY_FAILED) for a data directory that is neither a fresh backup
    nor a standby already: one that was opened must never become a standby by mistake.
    """
    backup_label = layout.data / "backup_label"
    if not (backup_label.exists() or layout.signal_file.exists()):
        raise LogshipError(
            Code.STANDBY_FAILED,
            f"{layout.data} is neither a backup nor a standby: it was opened as a primary",
            "seed the instance anew to make it a standby again",
        )
    make_private_directory(layout.standby, run_as)
    make_private_directory(layout.primary_settings, run_as)
    for name in _COPIED:
        _keep(layout, name)
    if _keep(layout, _AUTO_CONF):
        durable.remove(layout.data / _AUTO_CONF)
    durable.remove(layout.data / "recovery.signal")
    if not layout.signal_file.exists():
        durable.write_file(layout.signal_file, b"")
    run_as.chown(layout.signal_file)
    names = (*_COPIED, _AUTO_CONF)
    kept = tuple(name for name in names if (layout.primary_settings / name).exists())
    return Placement(
        kept=kept,
        missing=tuple(name for name in names if name not in kept),
        includes=_includes(layout.primary_settings / "postgresql.conf"),
    )


def undo_unfinished_opening(layout: StandbyLayout, run_as: RunAs) -> bool:
    """Make a server that died while it opened a standby again; True if it had to be done.

    PostgreSQL removes standby.signal before it writes the new timeline's history and first
    record, and only then says "in production" in the control file (`StartupXLOG` in xlog.c,
    14 to 18).  One that died in between would start as a primary on the old timeline, which
    its lost primary may be writing too.  As a standby it replays what it had, and can be
    promoted once more.

    Call it only when no server runs, and one is about to be started that may have been
    promoted.  Blocks.  Raises OSError, LogshipError(CONTROL_FILE).
    """
    if layout.signal_file.exists():
        return False
    state = read_control_file(layout.data).state
    if state not in (State.IN_ARCHIVE_RECOVERY, State.SHUTDOWNED_IN_RECOVERY):
        return False
    durable.write_file(layout.signal_file, b"")
    run_as.chown(layout.signal_file)
    return True


def make_private_directory(path: Path, run_as: RunAs) -> None:
    """A directory that only root and the server's user can enter: theirs, mode 0700.

    Raises LogshipError(STANDBY_FAILED) for a link: the server's user can make one in its own
    directories, and we, perhaps root, would change the mode of what it points to.
    """
    if path.is_symlink():
        raise _not_private(path, "is a link")
    durable.make_directory(path)
    run_as.chown(path)
    path.chmod(0o700)


def make_socket_directory(path: Path, run_as: RunAs) -> None:
    """Make the directory of a standby's unix socket, or check that it is private.

    Connections through it are trusted as the bootstrap superuser, so nobody but root and the
    server's user may enter.  A new one is made so; one that exists must be a directory (no
    link) that belongs to the server's user and is closed to others.

    Raises LogshipError(STANDBY_FAILED) if it is not.
    """
    if not path.exists() or path.lstat().st_uid == os.geteuid() != run_as.uid:
        # Also one that is ours still: a crash came before it was given away.
        make_private_directory(path, run_as)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise _not_private(path, "is not a directory")
    if found.st_uid != run_as.uid:
        raise _not_private(path, f"belongs to user {found.st_uid}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise _not_private(path, f"has mode {stat.S_IMODE(found.st_mode):04o}")


def write_ours(path: Path, text: str) -> bool:
    """Write one of our files if that changes it.  Returns whether it did."""
    content = text.encode()
    try:
        if path.read_bytes() == content:
            return False
    except FileNotFoundError:
        pass
    durable.write_file(path, content, _READABLE)
    return True


def primary_file(layout: StandbyLayout, name: str) -> str | None:
    """One of the primary's configuration files, None if the seed had none."""
    try:
        return (layout.primary_settings / name).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _keep(layout: StandbyLayout, name: str) -> bool:
    """Copy a file of the seed to `standby/primary`; False if the seed has none.

    Then an earlier seed's copy is removed, except of those in `_KEPT_WITHOUT_ORIGINAL`.
    """
    target = layout.primary_settings / name
    try:
        fd = os.open(layout.data / name, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        # None there, or a link to a place on the primary's machine.
        if name not in _KEPT_WITHOUT_ORIGINAL:
            durable.remove(target)
        return False
    with open(fd, "rb") as source:
        durable.write_file(target, source.read())
    return True


def _includes(configuration: Path) -> tuple[str, ...]:
    try:
        text = configuration.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ()
    return tuple(
        found[1] for line in text.splitlines() if (found := _INCLUDE.match(line)) is not None
    )


def _not_private(path: Path, why: str) -> LogshipError:
    return LogshipError(
        Code.STANDBY_FAILED,
        f"{path} must be private to the standby's user, but it {why}",
        "remove it: the applier makes it with the right owner and mode",
    )

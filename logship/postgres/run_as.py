"""Under which account PostgreSQL's programs run: they refuse root."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from logship.errors import Code, UsageError

DEFAULT_USER = "postgres"


class SubprocessArguments(TypedDict, total=False):
    """The arguments of `subprocess` (and asyncio's) that choose the account."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class RunAs:
    """The account of the servers, and whether we have to change to it.  Get one from `of`."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    changes: bool
    """Whether we are root and change to this account; else it is ours."""

    @classmethod
    def of(cls, user: str | None) -> RunAs:
        """The account named in the settings, or the natural one for None.

        As root: `user`, else `postgres`.  Otherwise: ourselves.

        Raises UsageError(SETTINGS): no such user, `user` is root, or we may not change to it.
        """
        if os.geteuid() != 0:
            return _ourselves(user)
        name = user or DEFAULT_USER
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            raise UsageError(
                Code.SETTINGS,
                f"PostgreSQL can't run as root, and there is no user {name!r} to run it as",
                f"create it (`useradd --system {name}`), or name another in `run_as`",
            ) from None
        if account.pw_uid == 0:
            raise UsageError(
                Code.SETTINGS,
                f"PostgreSQL refuses to run as root, which {name!r} is",
                "name an ordinary user in `run_as`",
            )
        # With the supplementary groups of a login: keys readable by `ssl-cert`, for one.
        groups = tuple(os.getgrouplist(account.pw_name, account.pw_gid))
        return cls(account.pw_name, account.pw_uid, account.pw_gid, groups, changes=True)

    def subprocess_arguments(self) -> SubprocessArguments:
        """What to pass to `subprocess` so that a program runs under this account."""
        if not self.changes:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": list(self.groups)}

    def shell_line(self, command: Sequence[str | Path]) -> str:
        """A program and its arguments as a line for the shell of whoever runs us, that starts it
        under this account."""
        change = ("runuser", "-u", self.name, "--") if self.changes else ()
        return shlex.join([*change, *map(str, command)])

    def environment(self) -> dict[str, str]:
        """Our environment without what would change a server's or libpq's behaviour.

        That is PG* (PGPORT is a server's default port), what systemd told us and not it, and
        our home when the account is another's.
        """
        foreign = {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
        if self.changes:
            foreign |= {"HOME", "USER", "LOGNAME"}
        return {
            name: value
            for name, value in os.environ.items()
            if name not in foreign and not name.startswith("PG")
        }

    def chown(self, path: Path) -> None:
        """Give one file, directory or symbolic link to this account."""
        if self.changes:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def chown_tree(self, path: Path) -> None:
        """Give a directory and everything in it to this account; links are not followed.

        Blocks for as long as the tree is large: call it in a thread.
        """
        if not self.changes:
            return
        self.chown(path)
        for directory, subdirectories, files in os.walk(path):
            for name in subdirectories + files:
                self.chown(Path(directory, name))


def _ourselves(user: str | None) -> RunAs:
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # containers often run under a number without a name
        name = str(uid)
    if user is not None and user not in (name, str(uid)):
        raise UsageError(
            Code.SETTINGS,
            f"PostgreSQL can't be run as {user!r} by {name!r}: only root may change the user",
            f"start this program as root or as {user!r}, or remove `run_as`",
        )
    return RunAs(name, uid, os.getegid(), tuple(os.getgroups()), changes=False)

"""The machines of a rehearsal: containers of a container engine, or directories of this host.

    containers  machines that are containers (Docker, Podman), by testcontainers
    local       machines that are directories and processes of this host
    left_behind what a rehearsal leaves that is killed

Everything else sees them by the protocols here.  All of it blocks: a rehearsal is one thread
with a few watchers beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from logship.errors import Code, LogshipError

CURRENT_LOGSHIP = "current"
"""The Logship that runs the rehearsal, as the name of one to be rehearsed."""

PACKAGES = ("logship", "shipper", "applier")
"""Of which a Logship consists."""

RUN_SECONDS = 120.0


class Done(NamedTuple):
    """How a program ended.  A program that ran out of time has `returncode` 124."""

    returncode: int
    stdout: str
    stderr: str


class ImageFacts(NamedTuple):
    """What an image is.

    installations: the `bin` directory of each PostgreSQL in it, by version ("16.14").
    operating_system: PRETTY_NAME of os-release.  libc: as `logship.host.libc` says it.
    """

    operating_system: str
    libc: str
    installations: Mapping[str, PurePosixPath]

    @property
    def majors(self) -> set[int]:
        return {int(version.partition(".")[0]) for version in self.installations}

    def bin_of(self, major: int, image: str) -> PurePosixPath:
        """Of the newest of that major.  image: as it is called.

        Raises LogshipError(NO_INSTALLATION).
        """
        fitting = {
            tuple(map(int, version.split("."))): path
            for version, path in self.installations.items()
            if int(version.partition(".")[0]) == major
        }
        if not fitting:
            raise LogshipError(
                Code.NO_INSTALLATION,
                f"{image} has no PostgreSQL {major} (it has: "
                f"{', '.join(self.installations) or 'none'})",
                "name an image that has it",
            )
        return fitting[max(fitting)]


class Process(Protocol):
    """A program that was started on a machine and goes on until it is stopped."""

    @property
    def running(self) -> bool: ...

    def stop(self, timeout_seconds: float = 30.0) -> int:
        """SIGTERM, SIGKILL when the time is over; returns the exit status (137: it was killed)."""

    def kill(self) -> None:
        """SIGKILL, to it and to all that it started."""

    def log(self) -> str:
        """All that it printed so far, stdout and stderr, and nothing of one that was started under
        its name before."""


class Machine(Protocol):
    """A host of the rehearsal.  Programs on it run as an account that PostgreSQL accepts.

    name: unique in the rehearsal; other machines reach this one by `address`.
    image, logship: what it runs now, as `change` was told it.
    home: a directory that is there under this very name whatever `change` does, and that the
    account owns; nothing else of the machine is kept over a `change`.  A fork may have another.
    facts: of `image`.
    address: host name or address under which the other machines reach this one.
    """

    @property
    def name(self) -> str: ...

    @property
    def image(self) -> str: ...

    @property
    def logship(self) -> str: ...

    @property
    def home(self) -> PurePosixPath: ...

    @property
    def facts(self) -> ImageFacts: ...

    @property
    def address(self) -> str: ...

    def run(
        self,
        command: Sequence[str | PurePosixPath],
        *,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = RUN_SECONDS,
    ) -> Done:
        """Run a program to its end.  Never raises for what the program does."""

    def start(
        self,
        command: Sequence[str | PurePosixPath],
        name: str,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a program that goes on; what it prints is kept in `home/logs/NAME.log`."""

    def logship_command(self, program: str) -> list[str]:
        """How `shipper` or `applier` of the Logship that is rehearsed here are called."""

    def tool_command(self, module: str) -> list[str]:
        """How a program of `logship.rehearsal.inside` is called: it is of the Logship that
        rehearses, whichever is rehearsed."""

    def free_port(self) -> int:
        """A TCP port on which a server of this machine can listen (never given twice)."""

    def write(self, path: PurePosixPath, content: str | bytes, mode: int = 0o600) -> None:
        """Write a file that the account owns; directories above it are made."""

    def read(self, path: PurePosixPath) -> bytes:
        """The file's content.  Raises FileNotFoundError."""

    def put_tree(self, source: Path, path: PurePosixPath) -> None:
        """Copy a directory of this host to `path` on the machine, owned by the account, modes
        kept."""

    def change(self, *, image: str | None = None, logship: str | None = None) -> None:
        """Go on with another image or another Logship.

        Another image: only `home` stays, and all that runs is ended hard; the caller stops what
        should end well.  Another Logship alone ends nothing: what runs goes on with the old one,
        and what is started from now on is of the new one.  Raises LogshipError.
        """

    def fork(self, name: str, *, image: str | None = None, logship: str | None = None) -> Machine:
        """Another machine with a copy of this one's `home`, on which nothing runs.

        The caller stops what writes below `home` before, and removes the fork afterwards.
        """

    def remove(self) -> None:
        """End all that runs on it and remove it with its `home`.  May be called twice."""


class Engine(Protocol):
    """Makes machines.  `close` removes all that are left, whatever happened.

    name: "docker" or "local".
    can_change_system: whether machines can differ in more than their PostgreSQL.
    """

    name: str
    can_change_system: bool

    def machine(self, name: str, image: str, logship: str = CURRENT_LOGSHIP) -> Machine:
        """A new machine.

        image: a container image, or for the local engine the directory or version of an
        installation of this host.  logship: CURRENT_LOGSHIP, a wheel, or a directory that holds
        the packages logship, shipper and applier.

        Raises LogshipError: no such image, nothing in it that a rehearsal needs.
        """

    def facts(self, image: str) -> ImageFacts:
        """What is in an image, as `machine` takes it.  Raises LogshipError as that does."""

    def remove_left_behind(self) -> tuple[str, ...]:
        """Remove what is left of rehearsals of this host and account that were killed; what is of
        one that lives stays.  Returns what a person is to be told, a line each.  Never raises
        LogshipError."""

    def close(self) -> None: ...

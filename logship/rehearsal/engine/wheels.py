"""Which packages Logship needs in a container: those that it runs with here, for the Python
there."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from logship.errors import Code, LogshipError

DISTRIBUTION = "logship"

_PIP_SECONDS = 600
_TRIED_MANYLINUX = range(28, 4, -1)


class Target(NamedTuple):
    """A Python.  version: (3, 11).  machine: `x86_64`.  musl: whether its C library is musl."""

    version: tuple[int, int]
    machine: str
    musl: bool

    @property
    def name(self) -> str:
        libc = "musl" if self.musl else "gnu"
        return f"cp{self.version[0]}{self.version[1]}-{self.machine}-{libc}"

    @property
    def platforms(self) -> list[str]:
        """The tags of wheels that run there, the newest first.  Older than what the container
        may have: what all wheels are made for, so that images share them."""
        if self.musl:
            return [f"musllinux_1_{minor}_{self.machine}" for minor in (2, 1, 0)]
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in _TRIED_MANYLINUX]
        return [*tags, f"manylinux2014_{self.machine}", f"manylinux2010_{self.machine}"]


def requirements(target: Target) -> list[str]:
    """What `pip` is to install for `target`, without looking for more: `name==version`, of the
    versions that are installed here.

    What only another Python needs is not installed here: it is named without a version.
    Raises LogshipError(CONTAINER_FAILED): Logship itself is not installed.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    environment = _environment(target)
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    pending = [(DISTRIBUTION, "")]
    while pending:
        name, extra = pending.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for text in _required_by(name):
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is not None and not marker.evaluate({**environment, "extra": extra}):
                continue
            wanted = canonicalize_name(requirement.name)
            found.setdefault(wanted, _pinned(wanted, str(requirement.specifier)))
            pending += [(wanted, each) for each in ("", *requirement.extras)]
    return sorted(found.values())


def _environment(target: Target) -> dict[str, str]:
    version = f"{target.version[0]}.{target.version[1]}"
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{version}.0",
        "os_name": "posix",
        "platform_machine": target.machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
    }


def _required_by(name: str) -> Iterator[str]:
    try:
        yield from importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError as error:
        if name == DISTRIBUTION:
            raise LogshipError(
                Code.CONTAINER_FAILED,
                "Logship is not installed in this Python, so what it needs is not known",
                "install it (`pip install --editable .` in its sources)",
            ) from error


def _pinned(name: str, specifier: str) -> str:
    try:
        return f"{name}=={importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name}{specifier}"


def digest(wanted: list[str], target: Target) -> str:
    """Names what `install` makes."""
    return hashlib.sha256("\n".join([target.name, *wanted]).encode()).hexdigest()[:16]


def install(wanted: list[str], target: Target, directory: Path) -> None:
    """Lay the packages out in `directory`.  Blocks for some seconds; asks the package index.

    Raises LogshipError(CONTAINER_FAILED).
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-compile",
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={target.version[0]}.{target.version[1]}",
        *(f"--platform={tag}" for tag in target.platforms),
        f"--target={directory}",
        *wanted,
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_PIP_SECONDS,
        )
    except subprocess.TimeoutExpired:
        complaint = f"no end within {_PIP_SECONDS} seconds"
    else:
        if done.returncode == 0:
            return
        complaint = (done.stderr or done.stdout).strip()[-400:]
    raise LogshipError(
        Code.CONTAINER_FAILED,
        f"pip can't fetch what Logship needs for {target.name}: {complaint}",
        "a rehearsal in containers needs pip here, and a package index that it reaches",
        retryable=True,
    )

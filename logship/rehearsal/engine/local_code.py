"""The Logships of a rehearsal on this host, and a Python that its account can run.

As root the programs run as another account, which may reach neither our Python nor our code:
both are then copied to where it can.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from logship.errors import Code, LogshipError, UsageError
from logship.postgres.run_as import RunAs
from logship.rehearsal.engine import CURRENT_LOGSHIP, PACKAGES
from logship.rehearsal.engine.dependencies import runtime_dependencies

_TRIAL = "import asyncio, ssl, psycopg, zmq"
_TRIAL_SECONDS = 30
# As importlib calls a compiled module that it is just writing: gone a moment later.
_UNFINISHED = "*.pyc.*"
# Of the standard library: what only developers use, and what others installed.
_NOT_COPIED = ("site-packages", "test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3")


class Python(NamedTuple):
    """How Python is called: the program, what its environment must have, and where its
    dependencies lie."""

    program: Path
    environment: Mapping[str, str]
    dependencies: tuple[Path, ...]


class CodeDirectory:
    """Copies of Logships in `directory`, which `run_as` can read; each is made when it is
    first asked for."""

    def __init__(self, directory: Path, run_as: RunAs) -> None:
        self._directory = directory
        self._run_as = run_as
        self._python: Python | None = None
        self._known: dict[str, Path] = {}

    def command(self, logship: str) -> list[str]:
        """What runs Python so that it imports the Logship `logship`; its arguments follow.

        Raises UsageError(USAGE): it is no Logship.  LogshipError(REHEARSAL_FAILED): no Python
        can be run.
        """
        python = self._python or self._find_python()
        self._python = python
        path = os.pathsep.join(map(str, (self._code(logship), *python.dependencies)))
        variables = {**python.environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        return [
            "env",
            *(f"{name}={value}" for name, value in variables.items()),
            str(python.program),
        ]

    def program(self, name: str) -> Path:
        """A file of the Logship that rehearses, where the account can read it."""
        return self._code(CURRENT_LOGSHIP) / name

    def _code(self, logship: str) -> Path:
        if logship not in self._known:
            target = Path(tempfile.mkdtemp(prefix="logship-", dir=self._directory))
            target.chmod(0o755)
            self._run_as.chown(target)
            self._fill(logship, target)
            self._known[logship] = target
        return self._known[logship]

    def _fill(self, logship: str, target: Path) -> None:
        if logship != CURRENT_LOGSHIP and Path(logship).is_file():
            try:
                with zipfile.ZipFile(logship) as wheel:
                    wheel.extractall(target)
            except (OSError, zipfile.BadZipFile) as error:
                raise _no_logship(logship, str(error)) from error
            self._run_as.chown_tree(target)
            sources = {name: target / name for name in PACKAGES}
        else:
            sources = _running() if logship == CURRENT_LOGSHIP else _in_directory(Path(logship))
            for name, source in sources.items():
                if source.is_dir():
                    _copy_tree(source, target / name, self._run_as, _copied)
        for name, source in sources.items():
            if not (target / name).is_dir():
                raise _no_logship(logship, f"there is no {source}")

    def _find_python(self) -> Python:
        ours = Python(Path(sys.executable), {}, _installed())
        if not self._run_as.changes or self._runs(ours):
            return ours
        copied = copy_python(self._directory, self._run_as)
        if self._runs(copied):
            return copied
        dependencies = copy_dependencies(self._directory, self._run_as)
        copied = copied._replace(dependencies=(dependencies,))
        if not self._runs(copied):
            raise LogshipError(
                Code.REHEARSAL_FAILED,
                f"{self._run_as.name} can run neither {sys.executable} nor a copy of it",
                f"use a Python that {self._run_as.name} can run, or rehearse as another user "
                "than root",
            )
        return copied

    def _runs(self, python: Python) -> bool:
        path = os.pathsep.join(map(str, python.dependencies))
        environment = {**self._run_as.environment(), **python.environment}
        try:
            done = subprocess.run(
                [python.program, "-c", _TRIAL],
                env={**environment, "PYTHONPATH": path},
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TRIAL_SECONDS,
                **self._run_as.subprocess_arguments(),
            )
        except (OSError, subprocess.SubprocessError):
            return False
        return done.returncode == 0


def copy_python(directory: Path, run_as: RunAs) -> Python:
    """The running Python below `directory`, with what is installed for it where it is."""
    home = directory / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    for path in (home, home / "bin", home / "lib"):
        path.mkdir(mode=0o755)
    program = home / "bin" / version
    _linked(os.path.realpath(sys.executable), str(program))
    library = sysconfig.get_config_var("INSTSONAME")
    if isinstance(library, str) and (base / "lib" / library).is_file():
        _linked(str(base / "lib" / library), str(home / "lib" / library))
    standard = Path(sysconfig.get_path("stdlib"))
    _copy_tree(standard, home / "lib" / version, run_as, _linked, _NOT_COPIED)
    variables = {"PYTHONHOME": str(home), "LD_LIBRARY_PATH": str(home / "lib")}
    return Python(program, variables, _installed())


def copy_dependencies(directory: Path, run_as: RunAs) -> Path:
    """What Logship needs of what is installed, in a directory below `directory`."""
    dependencies = directory / "dependencies"
    dependencies.mkdir(mode=0o755)
    for each in runtime_dependencies().values():
        for file in each.files or ():
            source = Path(str(each.locate_file(file)))
            # Programs lie beside the packages, in `../../../bin`.
            if ".." not in file.parts and source.is_file():
                target = dependencies / Path(*file.parts)
                target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                _linked(str(source), str(target))
    _give_directories(dependencies, run_as)
    return dependencies


def _installed() -> tuple[Path, ...]:
    """Where the running Python finds what is installed for it."""
    return tuple(
        Path(each) for each in sys.path if Path(each).name in ("site-packages", "dist-packages")
    )


def _running() -> dict[str, Path]:
    """The packages of the running Logship."""
    found = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        locations = list(spec.submodule_search_locations or ()) if spec is not None else []
        found[name] = Path(locations[0]) if locations else Path(name)
    return found


def _in_directory(directory: Path) -> dict[str, Path]:
    return {name: directory / name for name in PACKAGES}


def _copy_tree(
    source: Path,
    target: Path,
    run_as: RunAs,
    copy: Callable[[str, str], None],
    leave_out: tuple[str, ...] = (),
) -> None:
    ignore = shutil.ignore_patterns(_UNFINISHED, *leave_out)
    shutil.copytree(source, target, copy_function=copy, ignore=ignore)
    _give_directories(target, run_as)


def _give_directories(root: Path, run_as: RunAs) -> None:
    """So that Python can keep there what it compiles.  Not the files: they may be links to
    those that were copied."""
    for directory, _, _ in os.walk(root):
        Path(directory).chmod(0o755)
        run_as.chown(Path(directory))


def _linked(source: str, target: str) -> None:
    """A link to the same file where that can be had and others may read it, else a copy."""
    if Path(source).stat().st_mode & 0o004:
        with contextlib.suppress(OSError):  # on another file system
            os.link(source, target)
            return
    _copied(source, target)


def _copied(source: str, target: str) -> None:
    shutil.copy2(source, target)
    Path(target).chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def _no_logship(logship: str, why: str) -> UsageError:
    return UsageError(
        Code.USAGE,
        f"{logship} is no Logship that can be rehearsed: {why}",
        f'"{CURRENT_LOGSHIP}" is this one; a wheel or a directory with the packages '
        f"{', '.join(PACKAGES)} is another",
    )

"""Machines that are directories and processes of this host.

They differ in their PostgreSQL and in their Logship alone: all else is the host's.  An image is
an installation: its directory, its version ("16.14"), a bare major ("16": its newest), or
several of them with commas between.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from logship.errors import Code, LogshipError, UsageError
from logship.host import libc, operating_system
from logship.kept_ports import ADDRESS, KeptPorts
from logship.postgres.installations import Installation, discover
from logship.postgres.run_as import RunAs
from logship.rehearsal.engine import (
    CURRENT_LOGSHIP,
    RUN_SECONDS,
    Done,
    ImageFacts,
    attendant,
)
from logship.rehearsal.engine.attendants import Attendants, Imports, program_of
from logship.rehearsal.engine.left_behind import (
    DIRECTORY,
    NotedDirectory,
    remove_directory,
    remove_left_behind,
)
from logship.rehearsal.engine.local_code import CodeDirectory
from logship.rehearsal.engine.local_processes import LocalLine, LocalProcess, kill_below

CACHE_VARIABLE = "LOGSHIP_POSTGRES_CACHE"
OUT_OF_TIME_STATUS = 124
NOT_FOUND_STATUS = 127
# Root's own may lead through directories that are closed to the account.
_PATH = "/usr/local/bin:/usr/bin:/bin"


class LocalEngine:
    """Machines below one temporary directory, which `close` removes.

    As root, programs run as `postgres`, or as `nobody` where there is no such account.
    """

    name = "local"
    can_change_system = False

    def __init__(self) -> None:
        self._run_as = _account()
        self._noted = NotedDirectory()
        self._directory = self._noted.path
        code = self._directory / "code"
        code.mkdir(mode=0o755)
        self._code = CodeDirectory(code, self._run_as)
        self._ports = KeptPorts()
        self.imports: Imports = {}
        self._machines: list[LocalMachine] = []

    def machine(self, name: str, image: str, logship: str = CURRENT_LOGSHIP) -> LocalMachine:
        machine = LocalMachine(self, name, image, logship)
        machine.change(image=image, logship=logship)
        machine.make_home()
        self._machines.append(machine)
        return machine

    def remove_left_behind(self) -> tuple[str, ...]:
        return remove_left_behind({DIRECTORY: remove_directory})

    def close(self) -> None:
        with contextlib.ExitStack() as all_of_them:  # whatever one of them raises
            all_of_them.callback(self._ports.close)
            all_of_them.callback(self._noted.remove)
            for machine in self._machines:
                all_of_them.callback(machine.remove)

    # --- for its machines -----------------------------------------------------------------

    @property
    def run_as(self) -> RunAs:
        return self._run_as

    @property
    def code(self) -> CodeDirectory:
        return self._code

    def home_of(self, name: str) -> Path:
        return self._directory / name

    def facts(self, image: str) -> ImageFacts:
        """See `Engine.facts`.  Raises LogshipError(NO_INSTALLATION)."""
        chosen = [_installation(each.strip(), self._run_as) for each in image.split(",")]
        bins = {each.version: PurePosixPath(each.bin_dir) for each in chosen}
        return ImageFacts(operating_system(), libc(), bins)

    def free_port(self) -> int:
        return self._ports.take()


class LocalMachine:
    """A directory of this host, `home`.  Get one from `LocalEngine.machine`."""

    address = ADDRESS

    def __init__(self, engine: LocalEngine, name: str, image: str, logship: str) -> None:
        self._engine = engine
        self.name = name
        self.image = image
        self.logship = logship
        self._home = engine.home_of(name)
        self.home = PurePosixPath(self._home)
        self.facts = ImageFacts("", "", {})
        self._processes: list[LocalProcess] = []
        self._attendants = Attendants(name, self._attended, engine.imports)

    def make_home(self) -> None:
        # Its servers trust whoever reaches their sockets, and may hold a copy of real data.
        self._home.mkdir(mode=0o700)
        self._engine.run_as.chown(self._home)

    def run(
        self,
        command: Sequence[str | PurePosixPath],
        *,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = RUN_SECONDS,
    ) -> Done:
        words = list(map(str, command))
        python, program = program_of(words, self._pythons())
        if python:
            return self._run_python(python, program, stdin, environment, timeout_seconds)
        # Files and no pipes: a server that the program leaves behind keeps its output open.
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out:
            given.write(stdin.encode())
            given.seek(0)
            with tempfile.TemporaryFile() as err:
                try:
                    process = self._popen(command, environment, given, out, err)
                except OSError as error:
                    return Done(NOT_FOUND_STATUS, "", f"{command[0]}: {error.strerror}\n")
                try:
                    process.wait(timeout_seconds)
                    returncode = process.returncode
                except subprocess.TimeoutExpired:
                    LocalProcess(process, Path(os.devnull), 0).kill()
                    returncode = OUT_OF_TIME_STATUS
                if returncode < 0:
                    returncode = 128 - returncode
                return Done(returncode, _content(out), _content(err))

    def start(
        self,
        command: Sequence[str | PurePosixPath],
        name: str,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> LocalProcess:
        log_file = self._home / "logs" / f"{name}.log"
        if not log_file.exists():
            self.write(PurePosixPath(log_file), b"", 0o644)
        with log_file.open("ab") as log, open(os.devnull, "rb") as nothing:
            from_bytes = log.tell()
            try:
                process = self._popen(command, environment, nothing, log, log)
            except OSError as error:
                raise LogshipError(
                    Code.REHEARSAL_FAILED,
                    f"{command[0]} can't be started on {self.name}: {error.strerror}",
                ) from error
        started = LocalProcess(process, log_file, from_bytes)
        self._processes.append(started)
        return started

    def logship_command(self, program: str) -> list[str]:
        run = f"from {program}.commands import main; raise SystemExit(main())"
        return [*self._engine.code.command(self.logship), "-c", run]

    def tool_command(self, module: str) -> list[str]:
        python = self._engine.code.command(CURRENT_LOGSHIP)
        return [*python, "-m", f"logship.rehearsal.inside.{module}"]

    def free_port(self) -> int:
        return self._engine.free_port()

    def write(self, path: PurePosixPath, content: str | bytes, mode: int = 0o600) -> None:
        self._make_directory(Path(path).parent)
        file = Path(path)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)
        self._engine.run_as.chown(file)

    def read(self, path: PurePosixPath) -> bytes:
        return Path(path).read_bytes()

    def put_tree(self, source: Path, path: PurePosixPath) -> None:
        self._make_directory(Path(path).parent)
        _copy_tree(source, Path(path))
        self._engine.run_as.chown_tree(Path(path))

    def change(self, *, image: str | None = None, logship: str | None = None) -> None:
        facts = self.facts if image is None else self._engine.facts(image)
        if logship is not None:
            self._engine.code.command(logship)  # raises, before anything is changed
        if image is not None:
            self._end_all()
        self.image = image or self.image
        self.logship = logship or self.logship
        self.facts = facts

    def fork(
        self, name: str, *, image: str | None = None, logship: str | None = None
    ) -> LocalMachine:
        made = self._engine.machine(name, image or self.image, logship or self.logship)
        made.take_home(self._home)
        return made

    def take_home(self, source: Path) -> None:
        """Have a copy of another home in place of this one, which is empty."""
        self._home.rmdir()
        _copy_tree(source, self._home)
        for directory, subdirectories, files in os.walk(self._home):
            for path in (Path(directory, each) for each in (*subdirectories, *files)):
                if path.is_symlink() and path.readlink().is_relative_to(source):
                    # Tablespaces, which would still be the other's.
                    target = self._home / path.readlink().relative_to(source)
                    path.unlink()
                    path.symlink_to(target)
                    self._engine.run_as.chown(path)

    def remove(self) -> None:
        self._end_all()
        shutil.rmtree(self._home, ignore_errors=True)

    # --- inside ---------------------------------------------------------------------------

    def _popen(
        self,
        command: Sequence[str | PurePosixPath],
        environment: Mapping[str, str] | None,
        stdin: IO[bytes] | int,
        stdout: IO[bytes] | int,
        stderr: IO[bytes] | int,
    ) -> subprocess.Popen[bytes]:
        run_as = self._engine.run_as
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=self._home,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env={**self._environment(), **(environment or {})},
            **run_as.subprocess_arguments(),
        )

    def _environment(self) -> dict[str, str]:
        """The host's without what is told to us and not to the rehearsed programs."""
        ours = {
            name: value
            for name, value in self._engine.run_as.environment().items()
            if not name.startswith(("LOGSHIP_", "PYTHON", "LC_"))
        }
        if self._engine.run_as.changes:
            ours["PATH"] = _PATH
        return {**ours, "HOME": str(self._home), "LANG": "C.UTF-8"}

    def _make_directory(self, path: Path) -> None:
        missing = [each for each in (path, *path.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir(mode=0o755)
            self._engine.run_as.chown(each)

    def _run_python(
        self,
        python: tuple[str, ...],
        program: list[str],
        stdin: str,
        environment: Mapping[str, str] | None,
        timeout_seconds: float,
    ) -> Done:
        arguments = [attendant.PYTHON, str(timeout_seconds), "--", *program]
        try:
            answer = self._attendants.ask(
                arguments, python=python, stdin=stdin.encode(), environment=environment
            )
        except OSError as error:
            return Done(NOT_FOUND_STATUS, "", f"{python[-1]}: {error.strerror}\n")
        out, err = (each.decode("utf-8", "replace") for each in (answer.stdout, answer.stderr))
        return Done(answer.returncode, out, err)

    def _pythons(self) -> tuple[tuple[str, ...], ...]:
        """Whose programs need no interpreter of their own."""
        names = {CURRENT_LOGSHIP, self.logship}
        return tuple(tuple(self._engine.code.command(each)) for each in names)

    def _attended(self, python: tuple[str, ...]) -> LocalLine:
        program = self._engine.code.program("logship/rehearsal/engine/attendant.py")
        complaints = tempfile.TemporaryFile()  # noqa: SIM115 (the line closes it)
        pipe = subprocess.PIPE
        process = self._popen([*python, str(program)], None, pipe, pipe, complaints)
        return LocalLine(process, complaints)

    def _end_all(self) -> None:
        self._attendants.end()
        kill_below(self._home)
        for process in self._processes:
            process.kill()
        self._processes.clear()


def _account() -> RunAs:
    try:
        return RunAs.of(None)
    except UsageError:
        return RunAs.of("nobody")


def _installation(image: str, run_as: RunAs) -> Installation:
    if os.sep in image:
        directory = Path(image).expanduser().absolute()
        found = [
            each
            for each in discover([directory], run_as=run_as)
            if each.bin_dir.is_relative_to(directory)
        ]
    else:
        found = [
            each
            for each in discover(list(_caches()), run_as=run_as)
            if image in (each.version, str(each.major))
        ]
    if not found:
        raise LogshipError(
            Code.NO_INSTALLATION,
            f"this host has no PostgreSQL {image}",
            "on this host an image is an installation's directory, its version (16.14) or its "
            "major (16); an operating system needs a container engine",
        )
    # Of the same version the one with all of PostgreSQL's programs.
    return max(found, key=lambda each: (each.version_num, _has_all_programs(each)))


def _has_all_programs(installation: Installation) -> bool:
    return (installation.bin_dir / "pg_upgrade").exists()


def _caches() -> Iterator[Path]:
    """Where `make postgres` puts servers."""
    named = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    for place in (named, "/var/cache/logship/postgres", f"{home}/logship/postgres"):
        if place:
            with contextlib.suppress(RuntimeError, PermissionError):  # a home of nobody, another's
                if Path(place).expanduser().is_dir():
                    yield Path(place).expanduser()


def _copy_tree(source: Path, target: Path) -> None:
    """With owners, modes and holes.  Raises LogshipError(REHEARSAL_FAILED)."""
    done = subprocess.run(
        ["cp", "-a", "--reflink=auto", "--", source, target],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LogshipError(
            Code.REHEARSAL_FAILED, f"{source} can't be copied to {target}: {done.stderr.strip()}"
        )


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")

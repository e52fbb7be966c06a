"""The volumes from which the containers of a rehearsal have Logship: the running one, others that
are rehearsed, and the packages that they need, for each Python that the images have.

Each is named for what is in it, and the engine keeps it for the next rehearsal: to fill one takes
longer than all else that a machine needs.  All of it is compiled, because a machine can't write
there.  In a machine they are directories below MOUNT.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import IO, Any, NamedTuple

import logship
from logship.errors import Code, UsageError
from logship.rehearsal.engine import CURRENT_LOGSHIP, PACKAGES, attendant, supervision, wheels
from logship.rehearsal.engine.connection import engine_errors
from logship.rehearsal.engine.images import Probed

MOUNT = PurePosixPath("/opt/logship")
KEPT_LABEL = "logship.rehearsal.kept"

# Written last: without it a volume was not filled to its end.
_COMPLETE = ".complete"
_BARE_PYTHON = ("python3", "-I", "-S")
_KEPT_SECONDS = 7 * 86400


class Tree(NamedTuple):
    """A directory below MOUNT and the volume that holds it.

    pack: writes its files as a tar archive, below `name`.
    """

    name: str
    volume: str
    pack: Callable[[IO[bytes]], None]


class CodeVolumes:
    """The volumes of `client`'s engine."""

    def __init__(self, client: Any, labels: dict[str, str]) -> None:
        self._client = client
        self._labels = labels
        self._known: dict[tuple[str, wheels.Target], tuple[Tree, ...]] = {}

    def provide(self, source: str, image: Probed) -> tuple[Tree, ...]:
        """Have the Logship `source` there for the Python of `image`, and the one that rehearses.

        Returns what a machine of them has below MOUNT.  Raises UsageError, LogshipError.
        """
        target = _target(image)
        if (source, target) not in self._known:
            trees = {each: _code_tree(each, target) for each in (CURRENT_LOGSHIP, source)}
            wanted = (*trees.values(), _dependency_tree(target))
            with engine_errors("Logship can't be put into a volume"):
                self._fill(wanted, image)
            self._known[source, target] = wanted
        return self._known[source, target]

    def _fill(self, trees: tuple[Tree, ...], image: Probed) -> None:
        with _one_at_a_time(), self._filler(trees, image) as filler:
            for tree in trees:
                if not self._is_complete(filler, tree):
                    self._remove_old()
                    filler.start()
                    put_code(filler, tree)
                    _put(filler, lambda file, name=tree.name: _pack_mark(name, file))  # type: ignore[misc]

    @contextmanager
    def _filler(self, trees: tuple[Tree, ...], image: Probed) -> Iterator[Any]:
        """A container that can write there; made, not started."""
        for tree in trees:
            self._client.volumes.create(tree.volume, labels={KEPT_LABEL: tree.name})
        container = self._client.containers.create(
            image.reference,
            ["infinity"],
            entrypoint="sleep",
            user="root",
            init=True,
            labels=self._labels,
            network_mode="none",
            volumes={tree.volume: {"bind": str(MOUNT / tree.name), "mode": "rw"} for tree in trees},
        )
        try:
            yield container
        finally:
            container.remove(force=True, v=True)

    def _is_complete(self, filler: Any, tree: Tree) -> bool:
        import docker

        try:
            filler.get_archive(str(MOUNT / tree.name / _COMPLETE))
        except docker.errors.NotFound:
            return False
        return True

    def _remove_old(self) -> None:
        """What nobody has made anew for days; what is in use is not removed by the engine."""
        import docker

        now = time.time()
        for volume in self._client.volumes.list(filters={"label": KEPT_LABEL}):
            made_at = datetime.fromisoformat(volume.attrs["CreatedAt"]).timestamp()
            if now - made_at > _KEPT_SECONDS:
                with suppress(docker.errors.APIError):
                    volume.remove()


def python_command(source: str, image: Probed) -> tuple[str, ...]:
    """What runs Python in a machine so that it imports a Logship; its arguments follow."""
    target = _target(image)
    path = f"{MOUNT / _code_name(source, target)}:{MOUNT / _dependency_name(target)}"
    return ("env", f"PYTHONPATH={path}", "python3", "-P")


def supervision_command(image: Probed, *arguments: str) -> list[str]:
    """`supervision` in a machine."""
    return [*_BARE_PYTHON, str(_beside(supervision, image)), *arguments]


def attendant_command(image: Probed, python: tuple[str, ...]) -> list[str]:
    """`attendant` in a machine, by a Python that `python` calls; (): by one without packages."""
    return [*(python or _BARE_PYTHON), str(_beside(attendant, image))]


def _beside(module: ModuleType, image: Probed) -> PurePosixPath:
    code = MOUNT / _code_name(CURRENT_LOGSHIP, _target(image))
    return code / "logship/rehearsal/engine" / Path(str(module.__file__)).name


def pack_code(source: str, name: str, file: IO[bytes]) -> None:
    """The packages of a Logship, as `Engine.machine` takes it, as a tar archive, below `name`.

    Raises UsageError: it is none.
    """
    path = Path(logship.__file__).parents[1] if source == CURRENT_LOGSHIP else Path(source)
    if not path.is_dir() and not zipfile.is_zipfile(path):
        raise _no_logship(source, "is neither a wheel nor a directory")
    with tarfile.open(fileobj=file, mode="w") as archive:
        if path.is_file():
            found = _pack_wheel(path, name, archive)
        else:
            found = {each for each in PACKAGES if (path / each / "__init__.py").is_file()}
            for each in sorted(found):
                archive.add(path / each, f"{name}/{each}", filter=_source_only)
    missing = [each for each in PACKAGES if each not in found]
    if missing:
        raise _no_logship(source, f"has no package {' and no '.join(missing)}")


def _pack_wheel(path: Path, name: str, archive: tarfile.TarFile) -> set[str]:
    found = set()
    with zipfile.ZipFile(path) as wheel:
        for member in wheel.infolist():
            package = member.filename.partition("/")[0]
            if package in PACKAGES and not member.is_dir():
                content = wheel.read(member)
                entry = tarfile.TarInfo(f"{name}/{member.filename}")
                entry.size = len(content)
                entry.mode = 0o644
                archive.addfile(entry, io.BytesIO(content))
                found.add(package)
    return found


def _no_logship(source: str, why: str) -> UsageError:
    return UsageError(
        Code.USAGE,
        f"{source} {why}: no Logship can be rehearsed from it",
        "name a wheel of Logship, or a directory that holds the packages "
        f"{', '.join(PACKAGES)}; or `{CURRENT_LOGSHIP}`",
    )


def _source_only(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    entry.mtime = 0  # the same code is to have the same digest
    return None if PurePosixPath(entry.name).name == "__pycache__" else _readable(entry)


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """For every account, whatever the umask was."""
    entry.mode |= 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _target(image: Probed) -> wheels.Target:
    return wheels.Target(image.python, image.machine, image.musl)


def _code_name(source: str, target: wheels.Target) -> str:
    if source == CURRENT_LOGSHIP:
        return f"code-{CURRENT_LOGSHIP}-{target.name}"
    path = Path(source).resolve()
    return f"code-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}-{target.name}"


def _code_tree(source: str, target: wheels.Target) -> Tree:
    name = _code_name(source, target)
    with tempfile.TemporaryFile(prefix="logship-code-") as file:
        pack_code(source, name, file)
        file.seek(0)
        digest = hashlib.sha256(file.read()).hexdigest()[:16]
    return Tree(name, _volume(name, digest), lambda file: pack_code(source, name, file))


def _dependency_name(target: wheels.Target) -> str:
    return f"dependencies-{target.name}"


def _dependency_tree(target: wheels.Target) -> Tree:
    name = _dependency_name(target)
    wanted = wheels.requirements(target)

    def pack(file: IO[bytes]) -> None:
        with tempfile.TemporaryDirectory(prefix="logship-dependencies-") as scratch:
            wheels.install(wanted, target, Path(scratch) / name)
            with tarfile.open(fileobj=file, mode="w") as archive:
                archive.add(Path(scratch) / name, name, filter=_readable)

    return Tree(name, _volume(name, wheels.digest(wanted, target)), pack)


def _volume(name: str, digest: str) -> str:
    return f"logship-rehearsal-{name}-{digest}"


def put_code(container: Any, tree: Tree) -> None:
    """Lay `tree` out below MOUNT of a container that runs, and compile it."""
    _put(container, tree.pack)
    # Not all of it need be of this Python: what does not compile stays as it is.
    container.exec_run(
        ["python3", "-m", "compileall", "-q", "-j", "0", str(MOUNT / tree.name)], user="root"
    )


def _put(filler: Any, pack: Callable[[IO[bytes]], None]) -> None:
    with tempfile.TemporaryFile(prefix="logship-tree-") as file:
        pack(file)
        file.seek(0)
        filler.put_archive(str(MOUNT), file)


def _pack_mark(name: str, file: IO[bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(f"{name}/{_COMPLETE}"))


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Of the rehearsals on this host: who comes second finds filled what the first has filled."""
    with _lock_file().open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock_file() -> Path:
    # Not of TMPDIR: the volumes are the engine's, whoever has which directory for temporary files.
    return Path("/tmp") / f"logship-rehearsal-{os.getuid()}.lock"

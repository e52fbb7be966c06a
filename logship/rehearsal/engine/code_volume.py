"""The volume from which the containers of a rehearsal have Logship: the running one, others that
are rehearsed, and the packages that they need, for each Python that the images have.

Below MOUNT: `code-KEY-TARGET` holds the packages of one Logship, `dependencies-TARGET` what pip
laid out.  All is compiled, because a machine can't write there; and what was compiled is kept on
this host for the next rehearsal.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

import logship
from logship.errors import Code, UsageError
from logship.rehearsal.engine import CURRENT_LOGSHIP, dependencies, supervision
from logship.rehearsal.engine.connection import engine_errors
from logship.rehearsal.engine.images import Probed

MOUNT = PurePosixPath("/opt/logship")
PACKAGES = ("logship", "shipper", "applier")

_KEPT_SECONDS = 30 * 86400


class CodeVolume:
    """A volume of the container engine by the name `name`, filled as it is asked for."""

    def __init__(self, client: Any, name: str, labels: dict[str, str]) -> None:
        self._client = client
        self.name = name
        self._labels = labels
        self._made = False
        self._filled: set[str] = set()
        self._kept = Kept(dependencies.cache_directory())

    def provide(self, wanted: str, image: Probed) -> None:
        """Have the Logship `wanted` there for the Python of `image`, and the one that rehearses.

        Raises UsageError, LogshipError.
        """
        trees = [_code(each, image) for each in (CURRENT_LOGSHIP, wanted)]
        trees.append(f"dependencies-{_target(image).name}")
        if self._filled.issuperset(trees):
            return
        with engine_errors("Logship can't be put into a volume"), self._filler(image) as filler:
            for source, tree in zip((CURRENT_LOGSHIP, wanted), trees, strict=False):
                if tree not in self._filled:
                    self._put_code(filler, source, tree)
            if trees[-1] not in self._filled:
                self._put_dependencies(filler, trees[-1], _target(image))

    def remove(self) -> None:
        if self._made:
            self._client.volumes.get(self.name).remove(force=True)
            self._made = False

    @contextmanager
    def _filler(self, image: Probed) -> Iterator[Any]:
        """A container that can write there."""
        if not self._made:
            self._client.volumes.create(self.name, labels=self._labels)
            self._made = True
        container = self._client.containers.run(
            image.reference,
            ["infinity"],
            entrypoint="sleep",
            user="root",
            detach=True,
            init=True,
            labels=self._labels,
            network_mode="none",
            volumes={self.name: {"bind": str(MOUNT), "mode": "rw"}},
        )
        try:
            yield container
        finally:
            container.remove(force=True, v=True)

    def _put_code(self, filler: Any, source: str, tree: str) -> None:
        with tempfile.TemporaryFile(prefix="logship-code-") as file:
            digest = pack_code(source, tree, file)

            def unpack() -> None:
                file.seek(0)
                filler.put_archive(str(MOUNT), file)

            self._put(filler, tree, digest, unpack)

    def _put_dependencies(self, filler: Any, tree: str, target: dependencies.Target) -> None:
        wanted = dependencies.requirements(target)

        def unpack() -> None:
            with tempfile.TemporaryDirectory(prefix="logship-dependencies-") as scratch:
                dependencies.install(wanted, target, Path(scratch) / tree)
                with tempfile.TemporaryFile(dir=scratch) as file:
                    with tarfile.open(fileobj=file, mode="w") as archive:
                        archive.add(Path(scratch) / tree, tree, filter=_readable)
                    file.seek(0)
                    filler.put_archive(str(MOUNT), file)

        self._put(filler, tree, dependencies.digest(wanted, target), unpack)

    def _put(self, filler: Any, tree: str, digest: str, unpack: Callable[[], None]) -> None:
        """From what was kept, if it is; else by `unpack`, then compiled and kept."""
        kept = self._kept.file(f"{tree}-{digest}")
        if kept.exists():
            with kept.open("rb") as file:
                filler.put_archive(str(MOUNT), file)
        else:
            unpack()
            self._compile(filler, tree)
            self._kept.keep(kept, filler.get_archive(str(MOUNT / tree))[0])
        self._filled.add(tree)

    def _compile(self, filler: Any, tree: str) -> None:
        """Not all of it need be of this Python: what does not compile is left as it is."""
        filler.exec_run(["python3", "-m", "compileall", "-q", "-j", "0", str(MOUNT / tree)])


class Kept:
    """Archives of an earlier rehearsal; those that were not used for long are removed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def file(self, name: str) -> Path:
        path = self._directory / f"{name}.tar"
        with suppress(FileNotFoundError):
            os.utime(path)
        return path

    def keep(self, path: Path, pieces: Iterable[bytes]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._directory, delete=False) as file:
            try:
                for piece in pieces:
                    file.write(piece)
                Path(file.name).rename(path)
            except BaseException:
                Path(file.name).unlink()
                raise
        oldest = time.time() - _KEPT_SECONDS
        for each in self._directory.glob("*.tar"):
            with suppress(FileNotFoundError):
                if each.stat().st_mtime < oldest:
                    each.unlink()


def _target(image: Probed) -> dependencies.Target:
    return dependencies.Target(image.python, image.machine, image.musl)


def _code(source: str, image: Probed) -> str:
    return f"code-{code_key(source)}-{_target(image).name}"


def python_path(source: str, image: Probed) -> str:
    """With which a Logship runs in `image`."""
    return f"{MOUNT / _code(source, image)}:{MOUNT}/dependencies-{_target(image).name}"


def supervision_command(image: Probed, *arguments: str) -> list[str]:
    """`supervision` in a container that has the volume."""
    place = MOUNT / _code(CURRENT_LOGSHIP, image) / "logship/rehearsal/engine"
    return ["python3", "-I", "-S", str(place / Path(supervision.__file__).name), *arguments]


def code_key(source: str) -> str:
    """The directory's name for a Logship, as `Engine.machine` takes it."""
    if source == CURRENT_LOGSHIP:
        return CURRENT_LOGSHIP
    path = Path(source).resolve()
    return f"{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"


def pack_code(source: str, prefix: str, file: IO[bytes]) -> str:
    """The packages of a Logship as a tar archive, below `prefix`.  Returns a digest of it.

    Raises UsageError: it is none.
    """
    path = Path(logship.__file__).parents[1] if source == CURRENT_LOGSHIP else Path(source)
    if path.is_file() and not zipfile.is_zipfile(path):
        raise _no_logship(source, "is neither a wheel nor a directory")
    with tarfile.open(fileobj=file, mode="w") as archive:
        if path.is_file():
            found = _pack_wheel(path, prefix, archive)
        else:
            found = {each for each in PACKAGES if (path / each / "__init__.py").is_file()}
            for each in found:
                archive.add(path / each, f"{prefix}/{each}", filter=_source_only)
    missing = [each for each in PACKAGES if each not in found]
    if missing:
        raise _no_logship(source, f"has no package {' and no '.join(missing)}")
    file.seek(0)
    return hashlib.sha256(file.read()).hexdigest()[:16]


def _pack_wheel(path: Path, prefix: str, archive: tarfile.TarFile) -> set[str]:
    found = set()
    with zipfile.ZipFile(path) as wheel:
        for member in wheel.infolist():
            package = member.filename.partition("/")[0]
            if package in PACKAGES and not member.is_dir():
                content = wheel.read(member)
                entry = tarfile.TarInfo(f"{prefix}/{member.filename}")
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
    return None if PurePosixPath(entry.name).name == "__pycache__" else _readable(entry)


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """For every account, whatever the umask was."""
    entry.mode |= 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry

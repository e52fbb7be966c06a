"""Images of tests: Debian with PostgreSQL servers, made here of what this machine can fetch.

No registry is asked. A system comes from Debian's packages (debootstrap, from the mirror that
this machine's own apt uses), the servers are those of ``make postgres``, and where a test wants
every client tool, Debian's package. A tag holds a hash of all that an image is made of, so what
is there already is as it should be, and is made once even by several processes of tests.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import ImageNotFound

from tests.support.installations import cache_directory, wheel_dir

REPOSITORY = "logship-test"
SYSTEMS = ("bookworm", "trixie")

PACKAGES = ("ca-certificates", "locales", "python3")
LOCALES = ("en_US.UTF-8", "de_DE.UTF-8")
# Another on each, as the images of different publishers have it.
_ACCOUNT = {"bookworm": 999, "trixie": 997}
# Of apt's settings, what decides whether a mirror can be reached and is believed.
_APT_SETTING = re.compile(r"Acquire::(?:https?::Proxy|Check-[A-Za-z-]+) .*;")
_BUILD_SECONDS = 900


class ImageFailed(Exception):
    """An image could not be made; the message ends with what the tools said."""


@dataclass(frozen=True)
class BaseImages:
    """Makes images in ``client``'s engine, and knows those that are there."""

    client: Any

    def base(self, system: str) -> str:
        """Debian ``system`` with Python, the locales, and an account ``postgres``."""
        recipe = _base_recipe(system)
        tag = _tag("base", system, recipe)
        with self._making(tag) as missing:
            if missing:
                self._debian(system)
                self._build(tag, recipe)
        return tag

    def postgres(
        self, system: str, *releases: str, debian: str = "", without: tuple[str, ...] = ()
    ) -> str:
        """``base`` with servers in ``/usr/lib/postgresql``.

        releases: of ``make postgres``: ``16.9``; ``wheel`` is the one with every client tool.
        Each is in a directory of its major's name, or of its own if there are several of a major.
        debian: a package beside them, ``postgresql-17``; a release of its major keeps its own
        server and gets the programs that only the package has.  without: libraries that are
        left out.
        """
        base = self.base(system)
        trees = _places(releases)
        recipe = "\n".join([f"FROM {base}", *_package_recipe(debian), *_tree_recipe(trees, debian)])
        contents = [recipe, *without, *(path.name for path in trees.values())]
        name = "-".join([system, *releases, *([debian] if debian else [])])
        tag = _tag("postgres", name, "\n".join(contents))
        with self._making(tag) as missing:
            if missing:
                self._build(tag, recipe, trees, without)
        return tag

    def bare(self) -> str:
        """A server and next to nothing: no Python, no account; and a volume that nobody asked for.
        As publishers' images are, or worse."""
        recipe = (
            f"FROM {self.postgres('bookworm', '16.9')}\n"
            "RUN userdel postgres && apt-get purge --quiet --yes '*python3*'\n"
            "VOLUME /var/lib/postgresql/data"
        )
        tag = _tag("bare", "bookworm-16.9", recipe)
        with self._making(tag) as missing:
            if missing:
                self._build(tag, recipe)
        return tag

    def with_tools(self) -> str:
        """Majors 17 and 18 with every program: for ``pg_upgrade`` and ``pg_checksums``.

        Not Debian's server 17: it has attributes of columns that no other 18 can restore.
        """
        return self.postgres("trixie", "17.10", "wheel", debian="postgresql-17")

    def _debian(self, system: str) -> None:
        tag = _debian_tag(system)
        with self._making(tag) as missing:
            if missing:
                with tempfile.TemporaryDirectory(prefix="logship-debian-") as scratch:
                    archive = _debootstrap(system, Path(scratch))
                    repository, _, version = tag.partition(":")
                    self.client.api.import_image(str(archive), repository=repository, tag=version)

    def _build(
        self,
        tag: str,
        recipe: str,
        trees: dict[str, Path] | None = None,
        without: tuple[str, ...] = (),
    ) -> None:
        with tempfile.TemporaryFile(prefix="logship-image-") as context:
            _pack(context, recipe, trees or {}, without)
            context.seek(0)
            try:
                self.client.images.build(
                    fileobj=context,
                    custom_context=True,
                    tag=tag,
                    rm=True,
                    forcerm=True,
                    network_mode="host",
                    timeout=_BUILD_SECONDS,
                )
            except docker.errors.BuildError as error:
                said = "".join(str(line.get("stream", "")) for line in error.build_log)
                raise ImageFailed(f"{tag} can't be built: {error}\n{said[-2000:]}") from error

    @contextmanager
    def _making(self, tag: str) -> Iterator[bool]:
        """Whether the image is missing: while it is made, others who want it wait."""
        name = hashlib.sha256(tag.encode()).hexdigest()[:16]
        lock = Path(tempfile.gettempdir()) / f"logship-image-{os.getuid()}-{name}.lock"
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                self.client.images.get(tag)
            except ImageNotFound:
                yield True
            else:
                yield False


def why_none(client: Any) -> str:
    """Why no images can be had here; "" if they can be made, or are there already."""
    missing = []
    for system in SYSTEMS:
        try:
            client.images.get(_debian_tag(system))
        except ImageNotFound:
            missing.append(system)
    if missing and os.geteuid() != 0:
        return "images of tests are made by debootstrap, which needs root"
    if missing and shutil.which("debootstrap") is None:
        return "images of tests need debootstrap (Debian: `apt-get install debootstrap`)"
    return ""


def _debian_tag(system: str) -> str:
    return _tag("debian", system, f"{system} {' '.join(PACKAGES)}")


def _tag(kind: str, name: str, recipe: str) -> str:
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    return f"{REPOSITORY}/{kind}:{name}-{digest}"


def _base_recipe(system: str) -> str:
    locales = "".join(f"{locale} {locale.partition('.')[2]}\\n" for locale in LOCALES)
    apt = "".join(f"{line}\\n" for line in _apt_settings())
    return "\n".join(
        [
            f"FROM {_debian_tag(system)}",
            f"RUN printf '{locales}' >/etc/locale.gen && locale-gen",
            f"RUN useradd --system --uid {_ACCOUNT[system]} --user-group"
            " --home-dir /var/lib/postgresql --create-home --shell /bin/sh postgres",
            f"RUN printf '{apt}' >/etc/apt/apt.conf.d/99host",
            f"RUN echo 'deb {_mirror()} {system} main' >/etc/apt/sources.list",
        ]
    )


def _package_recipe(package: str) -> list[str]:
    if not package:
        return []
    return [
        "RUN mkdir -p /etc/postgresql-common"
        " && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf"
        " && apt-get update -qq"
        " && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends"
        f" {package}"
        " && apt-get clean && rm -rf /var/lib/apt/lists/*"
    ]


def _tree_recipe(trees: dict[str, Path], package: str) -> list[str]:
    copies = [f"COPY {name} /usr/lib/postgresql/{name}" for name in trees]
    major = package.rpartition("-")[2]
    if major not in trees:
        return copies
    there, aside = f"/usr/lib/postgresql/{major}", "/usr/lib/postgresql-package"
    return [
        f"RUN mv {there} {aside}",
        *copies,
        f"RUN cp --no-clobber {aside}/bin/* {there}/bin/ && rm -r {aside}",
    ]


def _places(releases: tuple[str, ...]) -> dict[str, Path]:
    """The trees of ``releases`` by the name of their directory in the image."""
    found = {
        release: wheel_dir() if release == "wheel" else cache_directory() / release
        for release in releases
    }
    for release, path in found.items():
        if not (path / "bin" / "postgres").exists():
            raise ImageFailed(f"PostgreSQL {release} is not in {path}; run: make postgres")
    majors = [path.name.partition(".")[0] for path in found.values()]
    return {
        path.name if majors.count(major) > 1 else major: path
        for major, path in zip(majors, found.values(), strict=True)
    }


def _pack(file: Any, recipe: str, trees: dict[str, Path], without: tuple[str, ...]) -> None:
    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        stem = Path(entry.name).name.partition(".")[0]
        if stem in without or entry.name.endswith(".a"):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    with tarfile.open(fileobj=file, mode="w") as archive:
        text = recipe.encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
        for name, path in trees.items():
            archive.add(path, name, filter=kept)


def _debootstrap(system: str, scratch: Path) -> Path:
    root, archive = scratch / "root", scratch / "root.tar"
    _ask(
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        system,
        str(root),
        _mirror(),
    )
    for leftover in (root / "var/cache/apt/archives").glob("*.deb"):
        leftover.unlink()
    _ask("tar", "-C", str(root), "-cf", str(archive), ".")
    return archive


def _mirror() -> str:
    """Where this machine's apt has Debian from."""
    said = ""
    if shutil.which("apt-get") is not None:
        said = _ask("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    mirrors = [line.rstrip("/") for line in said.splitlines()]
    found = next((line for line in mirrors if line.endswith("/debian")), "")
    if not found:
        raise ImageFailed("this machine's apt names no mirror of Debian to make images from")
    return found


def _apt_settings() -> list[str]:
    if shutil.which("apt-config") is None:
        return []
    said = _ask("apt-config", "dump").splitlines()
    return [line for line in said if _APT_SETTING.fullmatch(line)]


def _ask(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_BUILD_SECONDS
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-2000:]
        raise ImageFailed(f"{command[0]} ended with {done.returncode}:\n{said}")
    return done.stdout

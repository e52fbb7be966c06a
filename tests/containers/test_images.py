"""The images: what they hold and say of themselves, and how their processes begin and end."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from logship import __version__
from tests.support.pair import PATIENCE_SECONDS
from tests.support.product_images import PREFIX, ProductImages, build, said
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)  # the first builds the images

MOST_ADDED_BYTES = 120_000_000
# Half of them from a file; of a level that is no level the environment has the last word.
SHIPPER_FILE = """
instance = "own"

[primary]
conninfo = "host=127.0.0.1 port=9 user=nobody"

[log]
level = "loud"
"""
SHIPPER_ENVIRONMENT = {
    "LOGSHIP__LOG__LEVEL": "info",
    "LOGSHIP__LINK__ADDRESS": "tcp://127.0.0.1:9",
    "LOGSHIP__LINK__APPLIER_PUBLIC_KEY_FILE": "/var/lib/logship/main.pub",
    "LOGSHIP__LINK__SECRET_KEY_FILE": "/var/lib/logship/main.key",
}


def run(
    image: str,
    *command: str,
    entrypoint: str = "",
    mounted: tuple[str, ...] = (),
    **options: Any,
) -> str:
    words = ["docker", "run", "--rm", "--network", "none"]
    words += ["--entrypoint", entrypoint] if entrypoint else []
    words += [word for each in mounted for word in ("--volume", each)]
    return said(*words, image, *command, **options)


def own_file(directory: Path, text: str) -> Path:
    """A settings file that the images' account can read."""
    path = directory / "own.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    return path


def files(client: Any, image: str) -> Iterator[tuple[object, ...]]:
    """Everything in an image that is not of the engine's own making."""
    container = client.containers.create(image)
    try:
        archive = io.BytesIO(b"".join(container.export()))
    finally:
        container.remove(v=True)
    with tarfile.open(fileobj=archive) as tree:
        for entry in tree:
            if entry.name.split("/")[0] in ("dev", "proc", "sys") or entry.name == ".dockerenv":
                continue
            content = tree.extractfile(entry) if entry.isreg() else None
            digest = hashlib.sha256(content.read()).hexdigest() if content is not None else ""
            times = entry.mtime if entry.name.startswith("opt/logship/") else 0
            yield (
                *(entry.name, entry.type, entry.mode, entry.uid, entry.gid, entry.linkname),
                *(digest, times),
            )


@pytest.mark.parametrize("side", ["shipper", "applier"])
def test_an_image_says_what_it_is_and_gives_no_rights(
    side: str, product: ProductImages, container_client: Any
) -> None:
    image = getattr(product, side)
    facts = container_client.images.get(image).attrs["Config"]
    assert facts["User"] == "10001:10001"
    assert facts["StopSignal"] == "SIGTERM"
    assert facts["Entrypoint"] == ["tini", "--", side]
    assert facts["Healthcheck"]["Test"][0] == "CMD"
    prefix = "org.opencontainers.image"
    labels = facts["Labels"]
    assert labels[f"{prefix}.version"] == __version__
    assert labels[f"{prefix}.revision"] == said("git", "rev-parse", "HEAD")
    assert labels[f"{prefix}.licenses"] == "Apache-2.0"
    assert labels[f"{prefix}.created"].endswith("Z")
    assert run(image, "--version") == f"{side} {__version__}"
    sizes = [container_client.images.get(each).attrs["Size"] for each in (image, product.base)]
    assert 0 < sizes[0] - sizes[1] < MOST_ADDED_BYTES
    # It can't change its own programs, and has no second copy of what it runs.
    assert run(image, "-c", "id -u; touch /opt/logship/x 2>&1 || true", entrypoint="sh") == (
        "10001\ntouch: cannot touch '/opt/logship/x': Permission denied"
    )


def test_the_applier_finds_its_postgres_and_what_is_missing(
    product: ProductImages, tmp_path: Path
) -> None:
    """... by a settings file of one's own."""
    file = own_file(tmp_path, '[link]\nsecret_key_file = "/etc/logship/keys/own.key"\n')
    mounted = (f"{file}:/etc/logship/applier.toml:ro",)
    answer = json.loads(run(product.applier, "check", "--json", mounted=mounted, fails=True))
    checks = {each["name"]: each for each in answer["checks"]}
    assert "17.10 in /usr/lib/postgresql/17/bin" in checks["installations"]["what"]
    assert [name for name, each in checks.items() if each["level"] == "fail"] == ["secret-key"]
    assert checks["secret-key"]["what"] == "there is no key file /etc/logship/keys/own.key"


def test_wrong_settings_of_the_environment_are_named(product: ProductImages) -> None:
    command = ["docker", "run", "--rm", "--network", "none", "--env", "LOGSHIP__INSTANCE=main"]
    answer = said(*command, "--env", "LOGSHIP__LOG__LEVEL=loud", product.shipper, fails=True)
    assert "given by LOGSHIP__LOG__LEVEL in the environment" in answer
    assert "primary.conninfo is missing" in answer


def test_a_shipper_that_waits_is_not_healthy_and_ends_when_told(
    product: ProductImages, container_client: Any, tmp_path: Path
) -> None:
    file = own_file(tmp_path, SHIPPER_FILE)
    container = container_client.containers.create(
        product.shipper,
        entrypoint=["sh", "-c", 'shipper keygen ~ --name main && exec tini -s -- "$0" run'],
        command=["shipper"],
        environment=SHIPPER_ENVIRONMENT,
        volumes={str(file): {"bind": "/etc/logship/shipper.toml", "mode": "ro"}},
        network_mode="none",
    )
    try:
        container.start()

        def state() -> dict[str, Any] | None:
            done = container.exec_run(["shipper", "health", "--json"])
            found: dict[str, Any] = json.loads(done.output)
            return found if found.get("error") and found.get("state") == "no-primary" else None

        found = wait_until(state, PATIENCE_SECONDS, "a shipper that says what it waits for")
        assert found is not None and not found["healthy"] and found["instance"] == "own"
        assert container.exec_run(["shipper", "health"]).exit_code == 1
        container.stop(timeout=30)
        assert container.wait()["StatusCode"] == 0
    finally:
        container.remove(force=True, v=True)


def test_the_same_sources_give_the_same_files(
    product: ProductImages, container_client: Any
) -> None:
    """Of the applier's image, which has all that the shipper's has but one settings file."""
    before = set(files(container_client, product.applier))
    prefix = f"{PREFIX}-again"
    image = f"{prefix}-applier:{__version__}"
    try:
        build(product.base, "--target", "applier", "--no-cache", prefix=prefix)
        again = set(files(container_client, image))
    finally:
        container_client.images.remove(image, force=True)
    assert sorted(map(repr, before ^ again)) == []
    assert any(str(name).endswith(".pyc") for name, *_ in again)

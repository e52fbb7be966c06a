"""The machines of a rehearsal as containers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import logship
from logship.errors import Code, LogshipError
from logship.rehearsal.engine.containers import SESSION_LABEL, ContainerEngine
from logship.rehearsal.plan.flags import Flags, plan_of_flags
from logship.rehearsal.running import rehearse
from tests.containers.engine_contract import EngineContract
from tests.support.base_images import BaseImages

REHEARSES = """
import sys, time
from logship.rehearsal.engine.containers import ContainerEngine
engine = ContainerEngine()
engine.machine("primary", sys.argv[1])
print(engine.session, flush=True)
time.sleep(600)
"""


def left_of(session: str, client: Any) -> list[str]:
    wanted = {"label": f"{SESSION_LABEL}={session}"}
    return [
        each.name
        for group in (
            client.containers.list(all=True, filters=wanted),
            client.volumes.list(filters=wanted),
            client.networks.list(filters=wanted),
        )
        for each in group
    ]


class TestContainers(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, container_client: Any) -> Iterator[ContainerEngine]:
        engine = ContainerEngine()
        yield engine
        engine.close()
        assert left_of(engine.session, container_client) == []

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls, base_images: BaseImages) -> tuple[str, str]:
        return base_images.postgres("bookworm", "16.9"), base_images.postgres("trixie", "16.14")


def test_an_image_with_a_server_and_nothing_else(
    container_engine: ContainerEngine, container_client: Any, base_images: BaseImages
) -> None:
    image = base_images.bare()
    machine = container_engine.machine("bare", image)
    assert machine.image == image
    assert machine.run(["id", "-un"]).stdout == "postgres\n"
    bin_dir = machine.facts.installations["16.9"]
    made = machine.run([bin_dir / "initdb", "-D", machine.home / "data"])
    assert made.returncode == 0, made.stderr
    applier = machine.run([*machine.logship_command("applier"), "--version"])
    assert applier.stdout == f"applier {logship.__version__}\n"
    (container,) = container_client.containers.list(
        filters={
            "label": f"{SESSION_LABEL}={container_engine.session}",
            "ancestor": machine.reference,
        }
    )
    own = {mount["Name"] for mount in container.attrs["Mounts"] if mount["RW"]}
    assert len(own) == 2
    machine.remove()
    assert own.isdisjoint(volume.name for volume in container_client.volumes.list())


def test_what_a_killed_rehearsal_left_goes_and_nothing_of_one_that_lives(
    container_client: Any,
    base_images: BaseImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    image = base_images.bare()
    engine = ContainerEngine()
    try:
        living = engine.machine("primary", image)
        command = [sys.executable, "-c", REHEARSES, image]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            session = other.stdout.readline().strip()
            try:
                assert engine.remove_left_behind() == ()
            finally:
                other.kill()
        assert len(left_of(session, container_client)) == 3, "a container, its home, a network"
        (said,) = engine.remove_left_behind()
        assert said.endswith(f"with the label {SESSION_LABEL}={session}")
        assert left_of(session, container_client) == []
        assert engine.remove_left_behind() == ()
        assert living.run(["true"]).returncode == 0
    finally:
        engine.close()
    assert not list(tmp_path.glob("*.note"))


def test_an_image_without_a_server_is_refused(
    container_engine: ContainerEngine, base_images: BaseImages
) -> None:
    with pytest.raises(LogshipError, match="no PostgreSQL server") as refused:
        container_engine.machine("empty", base_images.base("bookworm"))
    assert refused.value.code is Code.IMAGE_UNUSABLE


def test_an_image_of_a_later_step_is_looked_for_before_anything_is_built(
    container_engine: ContainerEngine, base_images: BaseImages
) -> None:
    missing = "localhost:9/none:1"
    plan = plan_of_flags(Flags(from_image=base_images.base("bookworm"), to_image=missing))
    said: list[str] = []
    with pytest.raises(
        LogshipError, match=f"{missing} is not here, and can't be pulled"
    ) as refused:
        rehearse(plan, container_engine, said.append)
    assert refused.value.code is Code.IMAGE_UNUSABLE
    assert "check its name" in refused.value.hint
    assert not any("building" in each for each in said)
    with pytest.raises(LogshipError, match="no image can be called 'Not A Name'") as refused:
        container_engine.facts("Not A Name")
    assert refused.value.code is Code.IMAGE_UNUSABLE

"""The machines of a rehearsal as containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from logship.rehearsal.engine.containers import SESSION_LABEL, ContainerEngine
from tests.containers.engine_contract import EngineContract
from tests.support.base_images import BaseImages


def left_of(engine: ContainerEngine, client: Any) -> list[str]:
    wanted = {"label": f"{SESSION_LABEL}={engine.session}"}
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
        assert left_of(engine, container_client) == []

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls, base_images: BaseImages) -> tuple[str, str]:
        return base_images.postgres("bookworm", "16.9"), base_images.postgres("trixie", "16.14")

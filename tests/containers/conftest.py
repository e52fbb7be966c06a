"""What tests with containers share: an engine, or the reason why they do not run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from logship.errors import LogshipError
from logship.rehearsal.engine.connection import connect
from logship.rehearsal.engine.containers import ContainerEngine
from tests.support.base_images import BaseImages, why_none
from tests.support.product_images import ProductImages, product_images

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.containers)


@pytest.fixture(scope="session")
def container_client() -> Iterator[Any]:
    """A client of docker-py; without an engine who wants it is skipped."""
    try:
        client = connect()
    except LogshipError as error:
        pytest.skip(error.what)
    yield client
    client.close()


@pytest.fixture(scope="session")
def base_images(container_client: Any) -> BaseImages:
    """Images with PostgreSQL servers, made when they are asked for."""
    reason = why_none(container_client)
    if reason:
        pytest.skip(reason)
    return BaseImages(container_client)


@pytest.fixture(scope="session")
def container_engine(container_client: Any) -> Iterator[ContainerEngine]:
    """An engine for this process of tests; each test removes its machines."""
    del container_client  # which has found that there is an engine
    engine = ContainerEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def product(base_images: BaseImages) -> ProductImages:
    """The images of containers/, which are built by the engine's command line."""
    if shutil.which("docker") is None:
        pytest.skip("there is no program docker")
    return product_images(base_images)

"""What the tests of containers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from logship.errors import LogshipError
from logship.rehearsal.engine.connection import connect
from tests.support.product_images import ProductImages, product_images


@pytest.fixture(scope="session")
def container_client() -> Iterator[Any]:
    """A client of docker-py."""
    try:
        client = connect()
    except LogshipError as error:
        pytest.skip(str(error))
    yield client
    client.close()


@pytest.fixture(scope="session")
def product(container_client: Any) -> ProductImages:
    """The images of containers/."""
    return product_images(container_client)

"""Destination `bucket` over a store in a directory: the contract, and what is its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.destination_contract import DestinationContract
from tests.support.bucket_far_end import BucketFarEnd

pytestmark = pytest.mark.integration


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[BucketFarEnd]:
    made = BucketFarEnd(tmp_path)
    yield made
    made.store.vanish()


class TestBucketDestination(DestinationContract):
    pass

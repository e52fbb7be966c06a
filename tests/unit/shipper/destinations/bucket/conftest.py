"""What the tests of the bucket's log share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.bucket_far_end import BucketFarEnd
from tests.support.memory_store import MemoryStore


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[BucketFarEnd]:
    made = BucketFarEnd(tmp_path, MemoryStore())
    yield made
    made.store.vanish()

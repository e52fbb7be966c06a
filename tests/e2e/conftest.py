"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pair import Pair


@pytest.fixture
def pair(shared_tmp_path: Path) -> Iterator[Pair]:
    """An applier and its shippers, ended with the test."""
    made = Pair(shared_tmp_path)
    yield made
    made.destroy()

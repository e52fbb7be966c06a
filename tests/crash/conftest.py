"""Fixtures and the option of the crash points."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.crash.places import Place
from tests.support.clusters import ClusterTemplates
from tests.support.directories import open_directory
from tests.support.installations import postgres_dir
from tests.support.servers import PrimaryServer

FEW = 5
"""Crash points of each test without the option: first, last, and evenly between."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--crash-points",
        default="few",
        choices=("few", "all"),
        help=f"try {FEW} crash points in each test, or every one (minutes; raise --timeout)",
    )


@pytest.fixture
def at_most(request: pytest.FixtureRequest) -> int:
    """How many crash points a test may try."""
    every = request.config.getoption("--crash-points", default="few") == "all"
    return 1 << 30 if every else FEW


@pytest.fixture
def place(request: pytest.FixtureRequest, cluster_templates: ClusterTemplates) -> Iterator[Place]:
    """A primary of the major that the test is parametrized with, protected; moment: following."""
    directory = open_directory()
    server = PrimaryServer.create(
        postgres_dir(request.param),
        directory / "primary",
        settings={"wal_keep_size": "256MB"},
        templates=cluster_templates,
    )
    made = Place(directory, server)
    try:
        server.start()
        made.protect()
        made.stop()
        made.keep("following")
        yield made
    finally:
        made.destroy()
        server.destroy()
        shutil.rmtree(directory, ignore_errors=True)

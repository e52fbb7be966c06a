"""Fixtures for every test: places that servers can use, and servers that end with the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings

from shipper.commands.demo.s3_server import S3Server
from tests.support.clusters import ClusterTemplates
from tests.support.directories import directory_of_the_run, open_directory, run_directories
from tests.support.installations import MAJORS, postgres_dir
from tests.support.s3_server import S3Bucket, credentials_of, running_s3_server
from tests.support.servers import PrimaryServer

# Programs that are installed have their byte code beside them; without it each start of one
# compiles all of it anew.  This overrides whoever runs the tests with PYTHONDONTWRITEBYTECODE.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Speed is measured in benchmarks: no test fails because the machine is busy.  A change is judged
# by the same examples as the one before; new ones are looked for by `make properties`.
settings.register_profile("logship", deadline=None, derandomize=True)
settings.register_profile("new-examples", deadline=None, print_blob=True)
settings.load_profile("logship")


def pytest_configure(config: pytest.Config) -> None:
    """The process that began the run makes what its workers share."""
    if not hasattr(config, "workerinput"):
        stack = contextlib.ExitStack()
        stack.enter_context(run_directories())
        config.add_cleanup(stack.close)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, None, None]:
    """Without a container engine the last lines say which tests did not run, and why."""
    yield
    reasons: dict[str, list[str]] = {}
    for report in terminalreporter.getreports("skipped"):
        if "containers" in report.keywords and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            reasons.setdefault(reason, []).append(report.nodeid)
    for reason, tests in reasons.items():
        terminalreporter.section(f"{len(tests)} tests with containers did not run", bold=True)
        terminalreporter.line(f"Why: {reason}")
        for test in sorted(tests):
            terminalreporter.line(f"  {test}")


class PrimaryFactory(Protocol):
    """What the fixture ``primary`` is: call it to get a started server."""

    def __call__(
        self,
        major: int = MAJORS[-1],
        *,
        name: str = ...,
        installation: Path | None = ...,
        start: bool = ...,
        wal_segsize_mb: int = ...,
        settings: Mapping[str, str] | None = ...,
        initdb_args: tuple[str, ...] = ...,
    ) -> PrimaryServer:
        """A new cluster of ``major``, or of ``installation`` if given."""


@pytest.fixture
def shared_tmp_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory that the servers' user can enter (``tmp_path`` is closed to it for root)."""
    path = open_directory(on_disk=request.node.get_closest_marker("on_disk") is not None)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster_templates() -> ClusterTemplates:
    """What initdb made, one for each kind of cluster, for every worker to copy."""
    return ClusterTemplates(directory_of_the_run())


@pytest.fixture
def primary(shared_tmp_path: Path, cluster_templates: ClusterTemplates) -> Iterator[PrimaryFactory]:
    """Makes real PostgreSQL servers, which end with the test, clones included."""
    made: list[PrimaryServer] = []

    def make(
        major: int = MAJORS[-1],
        *,
        name: str = "primary",
        installation: Path | None = None,
        start: bool = True,
        wal_segsize_mb: int = 16,
        settings: Mapping[str, str] | None = None,
        initdb_args: tuple[str, ...] = (),
    ) -> PrimaryServer:
        server = PrimaryServer.create(
            installation or postgres_dir(major),
            shared_tmp_path / name,
            wal_segsize_mb=wal_segsize_mb,
            settings=settings,
            initdb_args=initdb_args,
            templates=cluster_templates,
        )
        made.append(server)
        if start:
            server.start()
        return server

    yield make
    for server in made:
        server.destroy()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server for this worker, started when the first test wants it."""
    with running_s3_server() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> Iterator[S3Bucket]:
    """A prefix of its bucket for this test; the owner's credentials are the process's own."""
    with credentials_of(s3_server.owner):
        yield S3Bucket.of(s3_server)

"""What an installation makes, learnt from a throw-away cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from logship.errors import Code, LogshipError
from logship.postgres.installations import Installation
from logship.postgres.probe import probe
from logship.postgres.run_as import RunAs
from tests.conftest import PrimaryFactory
from tests.support.installations import all_majors, postgres_dir
from tests.support.servers import PrimaryServer

pytestmark = pytest.mark.integration


@pytest.fixture
def primary(primary: PrimaryFactory) -> PrimaryFactory:
    """Servers that do not fsync: nothing here needs it, and it takes most of the time."""

    def make(
        *args: Any, settings: Mapping[str, str] | None = None, **arguments: Any
    ) -> PrimaryServer:
        return primary(*args, settings={"fsync": "off", **(settings or {})}, **arguments)

    return make


RUN_AS = RunAs.of(None)


@pytest.fixture
def temporary_files(shared_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where throw-away clusters go."""
    directory = shared_tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@all_majors
async def test_the_probe_tells_what_a_cluster_of_it_is(
    primary: PrimaryFactory, temporary_files: Path, shared_tmp_path: Path, major: int
) -> None:
    server = primary(major)
    version = int(server.execute("show server_version_num")[0][0])
    installation = Installation(server.installation / "bin", version, "configured")
    made = await probe(installation, RUN_AS, shared_tmp_path / "cache")
    assert made.system_identifier == 0
    assert made.server_version_num == version
    system = server.execute(
        "select pg_control_version, catalog_version_no from pg_control_system()"
    )
    assert system == [(made.control_version, made.catalog_version)]
    init = server.execute(
        "select database_block_size, wal_block_size, blocks_per_segment * database_block_size::int8"
        " from pg_control_init()"
    )
    assert init == [(made.block_size, made.wal_block_size, made.segment_size)]
    assert list(temporary_files.iterdir()) == []


async def test_a_second_probe_runs_nothing(
    temporary_files: Path, shared_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = shared_tmp_path / "bin"
    programs.mkdir()
    for name in ("postgres", "pg_ctl", "initdb"):
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec {postgres_dir(17) / "bin"}/{name} "$@"\n')
        script.chmod(0o755)
    installation = Installation(programs, 170010, "configured")
    cache = shared_tmp_path / "cache"
    first = await probe(installation, RUN_AS, cache)
    (programs / "initdb").write_text("#!/bin/sh\nexit 1\n")
    assert await probe(installation, RUN_AS, cache) == first

    # A cache that can't be read, or another build of `postgres`, is probed anew.
    for spoil in (lambda: _damage(cache), lambda: _upgrade(programs / "postgres")):
        spoil()
        with pytest.raises(LogshipError) as caught:
            await probe(installation, RUN_AS, cache)
        assert caught.value.code is Code.NO_INSTALLATION
    assert list(temporary_files.iterdir()) == []


def _damage(cache: Path) -> None:
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:-5])


def _upgrade(program: Path) -> None:
    program.write_text(program.read_text() + "# newer\n")


async def test_an_initdb_that_fails_is_quoted(shared_tmp_path: Path, temporary_files: Path) -> None:
    programs = shared_tmp_path / "bin"
    programs.mkdir()
    (programs / "postgres").write_text("")
    (programs / "initdb").write_text(
        "#!/bin/sh\necho 'working'\necho 'initdb: error: out of luck' >&2\nexit 1\n"
    )
    (programs / "initdb").chmod(0o755)
    with pytest.raises(LogshipError, match="out of luck") as caught:
        await probe(Installation(programs, 170010, "configured"), RUN_AS, shared_tmp_path / "cache")
    assert caught.value.code is Code.NO_INSTALLATION


async def test_an_installation_that_was_removed_meanwhile_is_an_error_of_ours(
    shared_tmp_path: Path,
) -> None:
    gone = Installation(shared_tmp_path / "gone/bin", 170009, "debian")
    with pytest.raises(LogshipError) as caught:
        await probe(gone, RUN_AS, shared_tmp_path / "cache")
    assert caught.value.code is Code.NO_INSTALLATION

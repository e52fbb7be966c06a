"""Seeds arrive in order, whole, inside their directory, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from applier.receivers.seed import placement, unpacking
from applier.receivers.seed import receiver as receiver_module
from applier.receivers.seed.placement import SeedPlaced, tablespace_locations
from applier.receivers.seed.receiver import SeedOutOfOrderError, SeedReceiver
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedChunk, SeedEnd
from logship.postgres.postmaster import PidFile, Status
from logship.postgres.run_as import RunAs
from tests.support.waiting import wait_until
from tests.unit.applier.receivers.seed.archives import (
    SYSTEM_IDENTIFIER,
    SeedFrames,
    data_chunk,
    entry,
    link_entry,
    manifest,
    seed,
)

RUNNING = PidFile(4711, None, None, Status.READY)
OURSELVES = RunAs("us", os.geteuid(), os.getegid(), (), changes=False)
BASE = {"backup_label": b"START", "base/1/1259": b"x" * 3000, "base/1/empty": b""}
IN_TABLESPACE = {"PG_17_202406281/5/16390": b"y" * 1000}
ALL = BASE | {f"pg_tblspc/16385/{name}": content for name, content in IN_TABLESPACE.items()}

BASE_ARCHIVE = (
    entry("backup_label", BASE["backup_label"])
    + entry("base/")
    + entry("base/1/")
    + entry("base/1/1259", BASE["base/1/1259"])
    + entry("base/1/empty")
    + entry("pg_wal/")
    + entry("./pg_wal/archive_status/")
)
WITH_LINK = BASE_ARCHIVE + entry("pg_tblspc/") + link_entry("pg_tblspc/16385/", "/mnt/fast")
TABLESPACE_ARCHIVE = (
    entry("PG_17_202406281/")
    + entry("PG_17_202406281/5/")
    + entry("PG_17_202406281/5/16390", IN_TABLESPACE["PG_17_202406281/5/16390"])
)
GOOD = seed([("", BASE_ARCHIVE)], manifest(BASE))


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[SeedReceiver]:
    made = SeedReceiver(
        tmp_path, run_as=OURSELVES, keep_free_bytes=0, system_identifier=SYSTEM_IDENTIFIER
    )
    yield made
    await made.abort()


async def nothing_runs() -> None:
    """There is no standby to stop."""


async def give(receiver: SeedReceiver, frames: SeedFrames) -> SeedPlaced | None:
    for frame, payload in frames:
        if isinstance(frame, SeedBegin):
            await receiver.begin(frame)
        elif isinstance(frame, SeedChunk):
            await receiver.chunk(frame, payload)
        else:
            return await receiver.end(frame, nothing_runs)
    return None


async def refusal(receiver: SeedReceiver, frames: SeedFrames) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        await give(receiver, frames)
    return caught.value


def only_archive(archive: bytes) -> SeedFrames:
    return seed([("", archive)], manifest({}))


async def test_a_whole_seed_is_put_in_place(tmp_path: Path, receiver: SeedReceiver) -> None:
    frames = seed(
        [("16385", TABLESPACE_ARCHIVE), ("", WITH_LINK + bytes(1024))],
        manifest(ALL),
        tablespaces=[(16385, "/mnt/fast")],
        estimated_bytes=4000,
    )
    placed = await give(receiver, frames)
    assert placed is not None
    assert (placed.files, placed.bytes) == (4, 4005)
    data = tmp_path / "data"
    assert (data / "base/1/1259").read_bytes() == BASE["base/1/1259"]
    assert (data / "backup_manifest").read_bytes() == manifest(ALL)
    link = data / "pg_tblspc/16385"
    assert link.readlink() == tmp_path / "tablespaces/16385"
    assert (link / "PG_17_202406281/5/16390").read_bytes() == b"y" * 1000
    assert tablespace_locations(tmp_path) == {16385: "/mnt/fast"} == placed.tablespaces
    for path in data.rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    last = frames[-1][0]
    assert isinstance(last, SeedEnd)
    assert await receiver.end(last, nothing_runs) is placed


async def test_an_in_place_tablespace_lands_inside_the_data_directory(
    tmp_path: Path, receiver: SeedReceiver
) -> None:
    base = BASE_ARCHIVE + entry("pg_tblspc/") + entry("pg_tblspc/16385/")
    frames = seed(
        [("16385", TABLESPACE_ARCHIVE), ("", base)],
        manifest(ALL),
        tablespaces=[(16385, "pg_tblspc/16385")],
    )
    assert await give(receiver, frames) is not None
    inside = tmp_path / "data/pg_tblspc/16385"
    assert inside.is_dir() and not inside.is_symlink()
    assert (inside / "PG_17_202406281/5/16390").exists()


async def test_the_swap_waits_for_the_old_standby_to_stop(
    tmp_path: Path, receiver: SeedReceiver
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/old").touch()
    await give(receiver, GOOD[:-1])
    end = GOOD[-1][0]
    assert isinstance(end, SeedEnd)

    async def will_not_stop() -> None:
        assert (tmp_path / "data/old").exists() and (tmp_path / "data.seeding").exists()
        raise LogshipError(Code.STANDBY_FAILED, "it does not stop", retryable=True)

    with pytest.raises(LogshipError, match="does not stop"):
        await receiver.end(end, will_not_stop)
    assert (tmp_path / "data/old").exists()
    await receiver.end(end, nothing_runs)
    assert (tmp_path / "data.old/old").exists() and (tmp_path / "data/base").exists()


async def test_repeats_are_ignored_and_gaps_name_what_is_expected(
    receiver: SeedReceiver,
) -> None:
    await give(receiver, GOOD[:4])
    await give(receiver, GOOD[:3])
    assert receiver.next_sequence == 3
    with pytest.raises(SeedOutOfOrderError) as caught:
        await give(receiver, GOOD[5:6])
    assert caught.value.expected_sequence == 3 and caught.value.retryable
    with pytest.raises(SeedOutOfOrderError):
        await give(receiver, GOOD[-1:])
    assert await give(receiver, GOOD[4:]) is not None


async def test_a_damaged_payload_is_asked_for_again_and_the_seed_goes_on(
    receiver: SeedReceiver,
) -> None:
    await give(receiver, GOOD[:2])
    chunk, payload = GOOD[2]
    assert isinstance(chunk, SeedChunk)
    damaged = bytes([payload[0] ^ 1]) + payload[1:]
    with pytest.raises(LogshipError) as caught:
        await receiver.chunk(chunk, damaged)
    assert caught.value.code in (Code.CHECKSUM_MISMATCH, Code.BAD_FRAME)
    assert receiver.next_sequence == 1 and receiver.failure is None
    assert await give(receiver, GOOD[2:]) is not None


async def test_a_cancelled_call_loses_nothing(
    receiver: SeedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {"a": os.urandom(3_000_000)}
    frames = seed([("", entry("a", large["a"]))], manifest(large), chunk_bytes=100_000)
    await receiver.begin(frames[0][0])  # type: ignore[arg-type]
    for frame, payload in frames[1:]:
        for turns in (1, 2, None):
            call = asyncio.create_task(give(receiver, [(frame, payload)]))
            for _ in range(turns or 0):
                await asyncio.sleep(0)
            if turns:
                call.cancel()
            await asyncio.wait([call])
            if not call.cancelled():
                call.result()
    assert receiver.next_sequence == len(frames) - 2


async def test_aborting_removes_everything_and_a_new_seed_may_begin(
    tmp_path: Path, receiver: SeedReceiver
) -> None:
    await give(receiver, GOOD[:5])
    assert receiver.seed_id == "s1"
    await receiver.abort()
    assert not list(tmp_path.iterdir()) and receiver.seed_id == ""
    error = await refusal(receiver, GOOD[5:6])
    assert error.code is Code.SEED_FAILED and error.retryable
    assert await give(receiver, GOOD) is not None


async def test_a_new_seed_replaces_an_unfinished_one(receiver: SeedReceiver) -> None:
    await give(receiver, GOOD[:5])
    placed = await give(receiver, seed([("", BASE_ARCHIVE)], manifest(BASE), seed_id="s2"))
    assert placed is not None and placed.seed_id == "s2"


async def test_contents_that_changed_under_a_right_crc_do_not_match_the_manifest(
    tmp_path: Path, receiver: SeedReceiver
) -> None:
    archive = BASE_ARCHIVE.replace(b"x" * 3000, b"x" * 2999 + b"z")
    error = await refusal(receiver, seed([("", archive)], manifest(BASE)))
    assert error.code is Code.SEED_MANIFEST_MISMATCH and "base/1/1259" in error.what
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (entry("a", b"1") + entry("a", b"2"), "comes twice"),
        (entry("a/") + entry("a/"), "comes twice"),
        (entry("a", b"1") + entry("a/"), "comes twice"),
        (entry("no/such", b"1"), "did not come before"),
        (entry("a", b"1") + entry("a/b", b"2"), "not a directory"),
        (entry("tablespace_map", b"1"), "tablespace_map"),
        (entry("pg_wal/") + entry("pg_wal/0001", b"1"), "WAL does not come"),
        (entry("backup_manifest", b"1"), "of its own"),
        (link_entry("pg_tblspc/16386", "/"), "was not announced"),
        (entry("a", b"x" * 600)[:512], "in the middle"),
    ],
)
async def test_what_an_archive_must_not_have_fails_the_seed(
    tmp_path: Path, receiver: SeedReceiver, archive: bytes, why: str
) -> None:
    error = await refusal(receiver, only_archive(archive))
    assert error.code is Code.BAD_TAR and why in error.what
    assert await refusal(receiver, GOOD[-1:]) is error is receiver.failure
    await receiver.abort()
    assert not list(tmp_path.iterdir())


async def test_no_link_is_followed_out_whoever_made_it(
    tmp_path: Path, receiver: SeedReceiver
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    through = WITH_LINK + entry("pg_tblspc/16385/x", b"1")
    frames = seed(
        [("16385", TABLESPACE_ARCHIVE), ("", through)],
        manifest(ALL),
        tablespaces=[(16385, str(outside))],
    )
    assert (await refusal(receiver, frames)).code is Code.BAD_TAR
    # Somebody with the servers' account swaps a directory for a link meanwhile.
    frames = seed(
        [("", entry("base/") + entry("base/1/") + entry("base/1/x", b"1"))],
        manifest({}),
        seed_id="s2",
        chunk_bytes=512,
    )
    await give(receiver, frames[:4])
    made = (tmp_path / "data.seeding/base/1").exists
    await asyncio.to_thread(wait_until, made, 10, "directory of the archive")
    (tmp_path / "data.seeding/base/1").rmdir()
    (tmp_path / "data.seeding/base/1").symlink_to(outside)
    assert (await refusal(receiver, frames[4:])).code is Code.BAD_TAR
    assert not list(outside.iterdir())


async def test_our_own_file_is_made_before_anybody_else_may_write_there(
    receiver: SeedReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")

    def give_to_an_attacker(fd: int, _: RunAs) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("locations.json", dir_fd=fd)
        os.symlink(outside, "locations.json", dir_fd=fd)

    monkeypatch.setattr(unpacking, "_give", give_to_an_attacker)
    await receiver.begin(GOOD[0][0])  # type: ignore[arg-type]
    assert outside.read_bytes() == b"precious"


async def test_a_failed_swap_is_finished_when_the_next_seed_begins(
    receiver: SeedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(placement, "_roll_forward", fail)
        assert (await refusal(receiver, GOOD)).code is Code.SEED_FAILED
    again = seed([("", BASE_ARCHIVE)], manifest(BASE), seed_id="s2")
    with monkeypatch.context() as running:
        running.setattr(receiver_module, "running_postmaster", lambda _: RUNNING)
        error = await refusal(receiver, again)
        assert (error.code, error.retryable) == (Code.SEED_FAILED, True)
        assert "4711" in error.what
    placed = await give(receiver, again)
    assert receiver.recovered is not None
    assert receiver.recovered.seed_id == "s1"
    assert placed is not None
    assert placed.seed_id == "s2"


async def test_a_seed_without_an_announced_tablespaces_link_is_refused(
    receiver: SeedReceiver,
) -> None:
    frames = seed(
        [("16385", TABLESPACE_ARCHIVE), ("", BASE_ARCHIVE)],
        manifest(ALL),
        tablespaces=[(16385, "/mnt/fast")],
    )
    error = await refusal(receiver, frames)
    assert error.code is Code.BAD_TAR
    assert "pg_tblspc/16385" in error.what


async def test_archives_must_be_announced_complete_and_before_the_manifest(
    receiver: SeedReceiver,
) -> None:
    announced = [(16385, "/mnt/fast")]
    for archives, tablespaces in (
        ([("7", b""), ("", BASE_ARCHIVE)], announced),
        ([("", WITH_LINK)], announced),
        ([("", BASE_ARCHIVE), ("", BASE_ARCHIVE)], []),
        ([], []),
    ):
        await receiver.abort()
        frames = seed(archives, manifest(ALL), tablespaces=tablespaces)
        assert (await refusal(receiver, frames)).code is Code.BAD_TAR


async def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    receiver = SeedReceiver(tmp_path, run_as=OURSELVES, keep_free_bytes=1 << 60)
    error = await refusal(receiver, GOOD)
    assert error.code is Code.DISK_FULL and error.retryable
    assert str(1 << 60) in error.what and "are free" in error.what
    assert not list(tmp_path.iterdir())


async def test_room_that_shrinks_below_what_is_kept_free_stops_the_seed(
    tmp_path: Path, receiver: SeedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking._Root, "free_bytes", lambda self: 100)
    error = await refusal(receiver, GOOD)
    assert error.code is Code.DISK_FULL and error.retryable


async def test_a_disk_that_fills_fails_the_seed_and_keeps_the_old_data(
    tmp_path: Path, receiver: SeedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()

    def full(fd: int, data: memoryview) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(unpacking.durable, "write_all", full)
        error = await refusal(receiver, GOOD)
    assert error.code is Code.DISK_FULL and error.retryable
    await receiver.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert await give(receiver, GOOD) is not None


async def test_a_failed_fsync_fails_the_seed(
    tmp_path: Path, receiver: SeedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(receiver_module.durable, "sync_file", fail)
    error = await refusal(receiver, GOOD)
    assert error.code is Code.SEED_FAILED and not (tmp_path / "data").exists()


async def test_frames_of_unknown_kinds_and_lying_lengths_are_refused(
    receiver: SeedReceiver,
) -> None:
    await give(receiver, GOOD[:2])
    chunk, payload = data_chunk("s1", 1, b"abc")
    odd = SeedChunk(seed_id="s1", sequence=1, kind="surprise")
    huge = SeedChunk(seed_id="s1", sequence=1, kind="data", raw_bytes=1 << 40, codec="zstd")
    for frame in (odd, huge):
        with pytest.raises(LogshipError) as caught:
            await receiver.chunk(frame, payload)
        assert caught.value.code is Code.BAD_FRAME
    assert receiver.next_sequence == chunk.sequence

"""Seeds out of a bucket: which one is taken, what disturbs it, and what it leaves alone."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from applier.receivers.bucket import reader
from applier.receivers.bucket.reader import SeedOrder
from applier.receivers.bucket.receiver import BucketReceiver
from logship.bucket.keys import Keys, Place
from logship.bucket.seed_archive import PLAIN, Opens, Seals, SeedArchiveWriter
from logship.bucket.wal_objects import Marker
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedEnd
from logship.lsn import Lsn
from logship.objects.directory import DirectoryStore
from logship.objects.encryption import Identities, Recipients, generate_identity
from tests.support.bucket_writer import BucketWriter
from tests.support.fake_intake import FakeBucketIntake
from tests.support.link_frames import SEGMENT_BYTES, at, profile, wal_bytes
from tests.support.stores import WatchedStore, unreachable
from tests.support.waiting import until
from tests.unit.applier.receivers.seed.archives import (
    SYSTEM_IDENTIFIER,
    SeedFrames,
    entry,
    manifest,
    seed,
)

pytestmark = pytest.mark.integration

S = SEGMENT_BYTES
POLL_SECONDS = 0.05
PROFILE = profile(system_identifier=SYSTEM_IDENTIFIER)
FILES = {"backup_label": b"START", "base/1/1259": os.urandom(30_000)}
ARCHIVE = b"".join(entry(name, content) for name, content in FILES.items()) + bytes(1024)


def manifest_at(start_lsn: int) -> bytes:
    return manifest(FILES, start=str(Lsn(start_lsn)), end=str(Lsn(start_lsn + 500)))


def seed_at(start_lsn: int, seed_id: str) -> SeedFrames:
    """A seed whose WAL is that from `start_lsn` to a little behind it."""
    frames: SeedFrames = []
    for frame, payload in seed([("", ARCHIVE)], manifest_at(start_lsn), seed_id=seed_id):
        if isinstance(frame, SeedBegin):
            frame = msgspec.structs.replace(frame, start_lsn=start_lsn)
        elif isinstance(frame, SeedEnd):
            frame = msgspec.structs.replace(frame, end_lsn=start_lsn + 500)
        frames.append((frame, payload))
    return frames


def write_seed(
    store: WatchedStore, start_lsn: int, seed_id: str, *, recipients: Seals = PLAIN
) -> None:
    writer = SeedArchiveWriter(
        store.inner,
        Keys("orders", PROFILE.incarnation),
        recipients,
        profile=PROFILE,
        part_bytes=9000,
    )
    try:
        for frame, payload in seed_at(start_lsn, seed_id):
            writer.take(frame, payload)
    except LogshipError:
        writer.abort()
        raise


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(DirectoryStore(tmp_path / "bucket"))


@pytest.fixture
def writer(store: WatchedStore) -> BucketWriter:
    return BucketWriter(store.inner, "orders", PROFILE)


@pytest.fixture
def intake() -> FakeBucketIntake:
    """It has nothing, and wants a seed."""
    made = FakeBucketIntake(None, S)
    made.seed_wanted = True
    made.when_seeded = lambda: setattr(made, "seed_wanted", False)
    return made


@pytest.fixture
async def receiver(intake: FakeBucketIntake, store: WatchedStore) -> AsyncIterator[BucketReceiver]:
    made = reads(intake, store)
    yield made
    await made.stop()


def reads(
    intake: FakeBucketIntake, store: WatchedStore, identities: Opens = PLAIN
) -> BucketReceiver:
    return BucketReceiver(
        {"orders": intake},
        store,
        poll_seconds=POLL_SECONDS,
        prefetch_bytes=4 << 20,
        identities=identities,
    )


async def seeded(intake: FakeBucketIntake, seed_id: str) -> None:
    await until(lambda: intake.placed_seed_id == seed_id, f"seed {seed_id} is in place")
    raw = b"".join(part for chunk, part in intake.seed_parts if chunk.kind == "data")
    assert raw.startswith(ARCHIVE) and raw[len(ARCHIVE) :].startswith(b"{")
    assert [chunk.sequence for chunk, _ in intake.seed_parts] == list(range(len(intake.seed_parts)))


async def test_one_that_has_nothing_takes_the_newest_seed_and_the_wal_behind_it(
    receiver: BucketReceiver, intake: FakeBucketIntake, store: WatchedStore, writer: BucketWriter
) -> None:
    writer.write_many(1, 2 * S, 9 * S, S // 2)
    write_seed(store, 3 * S + 40, "ab01")
    write_seed(store, 6 * S + 40, "ab02")
    receiver.start(["orders"])
    await seeded(intake, "ab02")
    await until(lambda: intake.written == at(1, 9 * S), "and its WAL")
    assert intake.wal_of(1) == wal_bytes(1, 6 * S, 3 * S)
    assert len(intake.of_kind("seed_begin")) == 1


async def test_a_seed_that_is_not_there_yet_is_waited_for(
    receiver: BucketReceiver, intake: FakeBucketIntake, store: WatchedStore, writer: BucketWriter
) -> None:
    receiver.start(["orders"])
    await until(lambda: intake.of_kind("hello"), "the cluster is known")
    writer.write_many(1, 3 * S, 4 * S, S // 2)
    write_seed(store, 3 * S + 40, "ab01")
    await seeded(intake, "ab01")
    await until(lambda: intake.written == at(1, 4 * S), "and its WAL")


@pytest.mark.parametrize("missing", ["a segment", "its start", "a gap"])
async def test_a_seed_that_could_not_be_recovered_is_not_taken(
    missing: str,
    receiver: BucketReceiver,
    intake: FakeBucketIntake,
    store: WatchedStore,
    writer: BucketWriter,
) -> None:
    writer.write_many(1, 3 * S, 4 * S, S // 2)
    write_seed(store, 3 * S + 40, "ab01")
    match missing:
        case "a segment":
            writer.write_many(1, 6 * S, 7 * S, S // 2)
            write_seed(store, 7 * S - 200, "ab02")
        case "its start":
            write_seed(store, 6 * S + 40, "ab02")
        case "a gap":
            writer.write_many(1, 6 * S, 6 * S + 100, 100)
            writer.write_marker(Place(1, Lsn(6 * S + 100)), Marker(kind="gap", code="slot-lost"))
            write_seed(store, 6 * S + 40, "ab02")
    receiver.start(["orders"])
    await seeded(intake, "ab01")
    await until(lambda: intake.written == at(1, 4 * S), "and its WAL")


async def test_new_seeds_do_not_disturb_one_that_is_well(
    receiver: BucketReceiver, intake: FakeBucketIntake, store: WatchedStore, writer: BucketWriter
) -> None:
    writer.write_many(1, 3 * S, 4 * S, S // 2)
    write_seed(store, 3 * S + 40, "ab01")
    receiver.start(["orders"])
    await seeded(intake, "ab01")
    await until(lambda: intake.written == at(1, 4 * S), "and its WAL")
    writer.write_many(1, 4 * S, 6 * S, S // 2)
    write_seed(store, 4 * S + 40, "ab02")
    store.forget()
    await until(lambda: intake.written == at(1, 6 * S), "WAL comes on")
    await asyncio.sleep(5 * POLL_SECONDS)
    await receiver.stop()
    again = reads(intake, store)
    again.start(["orders"])
    await until(lambda: len(intake.of_kind("hello")) == 2, "after a restart")
    await asyncio.sleep(5 * POLL_SECONDS)
    await again.stop()
    assert len(intake.of_kind("seed_begin")) == 1
    assert intake.chain_starts == [at(1, 3 * S)]


async def test_an_operator_may_order_one(
    receiver: BucketReceiver, intake: FakeBucketIntake, store: WatchedStore, writer: BucketWriter
) -> None:
    writer.write_many(1, 3 * S, 4 * S, S // 2)
    write_seed(store, 3 * S + 40, "ab01")
    receiver.start(["orders"])
    await seeded(intake, "ab01")
    writer.write_many(1, 4 * S, 6 * S, S // 2)
    write_seed(store, 4 * S + 40, "ab02")
    reader = receiver.readers["orders"]
    info = await reader.usable_seed()
    assert info is not None and info.begin.seed_id == "ab02"
    reader.order_seed(SeedOrder("an operator asked"))
    await seeded(intake, "ab02")
    await until(lambda: intake.written == at(1, 6 * S), "and its WAL")


async def test_one_too_old_for_the_wal_that_is_held_is_refused_while_a_standby_needs_that(
    receiver: BucketReceiver, intake: FakeBucketIntake, store: WatchedStore, writer: BucketWriter
) -> None:
    """Retention has removed the WAL between the seed and what the standby still needs."""
    intake.seed_wanted, intake.placed_seed_id = False, "ab00"
    intake.hold(at(1, 8 * S), wal_bytes(1, 8 * S, 4 * S))
    writer.write_many(1, 5 * S, 7 * S, S // 2)
    write_seed(store, 5 * S + 40, "ab01")
    receiver.start(["orders"])
    reader = receiver.readers["orders"]
    await until(lambda: intake.of_kind("bucket_dry") or intake.of_kind("gap"), "it is read")
    with pytest.raises(LogshipError, match=r"ab01 .* 1:0/5\S+ .* leads from there to 1:0/C") as no:
        await reader.usable_seed()
    assert no.value.code is Code.SEED_FAILED and "shipper seed" in no.value.hint
    reader.order_seed(SeedOrder("an operator asked"))
    await until(lambda: intake.of_kind("bucket_failed"), "the order is refused")
    assert intake.of_kind("seed_begin") == [] and intake.wal_of(1) == wal_bytes(1, 8 * S, 4 * S)
    writer.write_many(1, 7 * S, 12 * S - 100, S // 2)
    with pytest.raises(LogshipError, match="would be cut off"):
        await reader.usable_seed()
    writer.write_wal(1, 12 * S - 100, wal_bytes(1, 12 * S - 100, 100))
    reader.order_seed(SeedOrder("an operator asked"))
    await seeded(intake, "ab01")
    await until(lambda: intake.written == at(1, 12 * S), "all that was held is there again")


async def test_a_bucket_that_goes_away_in_mid_seed_is_waited_for_and_the_seed_goes_on(
    receiver: BucketReceiver, intake: FakeBucketIntake, store: WatchedStore, writer: BucketWriter
) -> None:
    writer.write_many(1, 3 * S, 4 * S, S // 2)
    write_seed(store, 3 * S + 40, "ab01")
    failures = [0]

    def fail(operation: str, key: str) -> None:
        if operation == "get" and key.endswith("/base/000003") and failures[0] < 3:
            failures[0] += 1
            raise unreachable(store.name)

    store.fail = fail
    receiver.start(["orders"])
    await seeded(intake, "ab01")
    assert failures[0] == 3
    assert len(intake.of_kind("seed_begin")) == 1
    assert intake.of_kind("seed_chunk") == list(range(len(intake.seed_parts)))
    assert intake.of_kind("seed_stopped") == []


async def test_a_stop_while_a_part_of_a_seed_is_fetched_waits_for_that_and_ends(
    receiver: BucketReceiver, intake: FakeBucketIntake, store: WatchedStore, writer: BucketWriter
) -> None:
    writer.write_many(1, 3 * S, 4 * S, S // 2)
    write_seed(store, 3 * S + 40, "ab01")
    asked, gate = threading.Event(), threading.Event()

    def hang(operation: str, key: str) -> None:
        if operation == "get" and key.endswith("/base/000000"):
            asked.set()
            assert gate.wait(10)

    store.fail = hang
    receiver.start(["orders"])
    await until(asked.is_set, "a part is asked for")
    stopping = asyncio.create_task(receiver.stop())
    done, _ = await asyncio.wait([stopping], timeout=2 * POLL_SECONDS)
    assert not done
    gate.set()
    async with asyncio.timeout(10):
        await stopping
    assert intake.of_kind("bucket_failed") == []


async def test_a_damaged_seed_is_given_up_and_the_one_before_it_is_taken(
    receiver: BucketReceiver, intake: FakeBucketIntake, store: WatchedStore, writer: BucketWriter
) -> None:
    writer.write_many(1, 3 * S, 9 * S, S // 2)
    write_seed(store, 3 * S + 40, "ab01")
    write_seed(store, 6 * S + 40, "ab02")
    for info in list(store.inner.listing(writer.keys.all_seeds)):
        if "ab02/base/" in info.key:
            found = store.inner.get(info.key)
            assert found is not None
            store.inner.put(info.key, found.data[:-1] + bytes([found.data[-1] ^ 1]))
    receiver.start(["orders"])
    await seeded(intake, "ab01")
    ((seed_id, code, what),) = intake.of_kind("seed_stopped")
    assert (seed_id, code) == ("ab02", "object-damaged")
    assert "ab02/base/" in what
    await until(lambda: intake.written == at(1, 9 * S), "and its WAL")
    assert intake.wal_of(1) == wal_bytes(1, 3 * S, 6 * S)


async def test_a_marker_leads_to_the_seed_that_the_wal_goes_on_with(
    receiver: BucketReceiver, intake: FakeBucketIntake, store: WatchedStore, writer: BucketWriter
) -> None:
    writer.write_many(1, 3 * S, 4 * S + 100, S // 2)
    write_seed(store, 3 * S + 40, "ab01")
    receiver.start(["orders"])
    await seeded(intake, "ab01")
    writer.write_marker(Place(1, Lsn(4 * S + 100)), Marker(kind="gap", code="slot-lost"))
    marker = Marker(kind="seed", timeline=1, lsn=8 * S + 40, seed="ab02")
    writer.write_marker(Place(1, Lsn(4 * S + 100), 1), marker)
    writer.write_many(1, 8 * S, 9 * S, S // 2)
    await until(lambda: intake.of_kind("gap"), "the gap is named")
    await asyncio.sleep(5 * POLL_SECONDS)
    assert intake.written == at(1, 4 * S + 100), "what there is stays until the seed is complete"
    write_seed(store, 8 * S + 40, "ab02")
    await seeded(intake, "ab02")
    await until(lambda: intake.written == at(1, 9 * S), "and its WAL")
    # What was taken is not taken again.
    await receiver.stop()
    again = reads(intake, store)
    again.start(["orders"])
    await until(lambda: len(intake.of_kind("hello")) >= 2, "after a restart")
    await asyncio.sleep(5 * POLL_SECONDS)
    await again.stop()
    assert len(intake.of_kind("seed_begin")) == 2


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_seed_that_a_marker_names_and_that_never_comes_does_not_end_it_all(
    ordered: bool,
    receiver: BucketReceiver,
    intake: FakeBucketIntake,
    store: WatchedStore,
    writer: BucketWriter,
) -> None:
    await _at_a_marker(receiver, intake, store, writer)
    dry = len(intake.of_kind("bucket_dry"))
    writer.write_many(1, 8 * S, 11 * S, S // 2)
    if ordered:
        # Not behind the marker: nobody but an operator takes it.
        write_seed(store, 3 * S + 90, "ab03")
        await asyncio.sleep(5 * POLL_SECONDS)
        assert len(intake.of_kind("seed_begin")) == 1
        receiver.readers["orders"].order_seed(SeedOrder("an operator asked"))
        await seeded(intake, "ab03")
        return
    write_seed(store, 10 * S + 40, "ab03")
    await seeded(intake, "ab03")
    assert len(intake.of_kind("bucket_dry")) == dry, "nobody was told that all is well"
    await until(lambda: intake.written == at(1, 11 * S), "and its WAL")


async def _at_a_marker(
    receiver: BucketReceiver, intake: FakeBucketIntake, store: WatchedStore, writer: BucketWriter
) -> None:
    """Behind a gap the WAL goes on with the seed `ab02`, from `8 * S` on."""
    writer.write_many(1, 3 * S, 4 * S + 100, S // 2)
    write_seed(store, 3 * S + 40, "ab01")
    receiver.start(["orders"])
    await seeded(intake, "ab01")
    await until(lambda: intake.of_kind("bucket_dry"), "all is read")
    writer.write_marker(Place(1, Lsn(4 * S + 100)), Marker(kind="gap", code="slot-lost"))
    marker = Marker(kind="seed", timeline=1, lsn=8 * S + 40, seed="ab02")
    writer.write_marker(Place(1, Lsn(4 * S + 100), 1), marker)
    await until(lambda: intake.of_kind("gap"), "the gap is named")
    store.forget()
    await until(lambda: store.requests["list"] > 2, "the seed is looked for")


async def test_while_a_seed_is_put_in_place_a_marker_is_read_once(
    receiver: BucketReceiver, intake: FakeBucketIntake, store: WatchedStore, writer: BucketWriter
) -> None:
    gate = intake.ending = asyncio.Event()
    writer.write_many(1, 3 * S, 4 * S + 100, S // 2)
    writer.write_marker(Place(1, Lsn(4 * S + 100)), Marker(kind="gap", code="slot-lost"))
    marker = Marker(kind="seed", timeline=1, lsn=8 * S + 40, seed="ab02")
    writer.write_marker(Place(1, Lsn(4 * S + 100), 1), marker)
    writer.write_many(1, 8 * S, 9 * S, S // 2)
    write_seed(store, 3 * S + 40, "ab01")
    receiver.start(["orders"])
    await until(lambda: intake.of_kind("gap"), "the marker is reached")
    write_seed(store, 8 * S + 40, "ab02")
    await asyncio.sleep(2 * POLL_SECONDS)
    store.forget()
    await asyncio.sleep(10 * POLL_SECONDS)
    assert not store.requests
    gate.set()
    await seeded(intake, "ab02")


async def test_a_seed_from_another_store_is_followed_by_the_buckets_wal(
    receiver: BucketReceiver,
    intake: FakeBucketIntake,
    store: WatchedStore,
    writer: BucketWriter,
    tmp_path: Path,
) -> None:
    """Where seeds alone are kept there is neither a profile nor WAL."""
    writer.write_many(1, 3 * S, 5 * S, S // 2)
    kept = WatchedStore(DirectoryStore(tmp_path / "kept"))
    write_seed(kept, 3 * S + 40, "ab07")
    receiver.start(["orders"])
    await until(lambda: intake.of_kind("hello"), "it waits for a seed")
    once = receiver.reader_of("orders", kept, SeedOrder("an operator asked"))
    info = await once.usable_seed()
    assert info is not None and info.begin.seed_id == "ab07"
    await receiver.run_instead("orders", once)
    await seeded(intake, "ab07")
    await until(lambda: intake.written == at(1, 5 * S), "and the WAL of the bucket")


# --- encryption -----------------------------------------------------------------------------------


def identities(directory: Path, name: str) -> tuple[Recipients, Identities]:
    pair = generate_identity()
    file = directory / name
    file.write_text(pair.file_text)
    file.chmod(0o600)
    return Recipients([pair.recipient]), Identities([file])


def with_a_sealed_seed(store: WatchedStore, directory: Path) -> Identities:
    """A bucket with WAL that these open, and a seed that they don't."""
    lost, _ = identities(directory, "lost")
    recipients, ours = identities(directory, "ours")
    BucketWriter(store.inner, "orders", PROFILE, recipients).write_many(1, 3 * S, 4 * S, S // 2)
    write_seed(store, 3 * S + 40, "ab01", recipients=lost)
    return ours


async def test_what_is_sealed_is_opened(
    intake: FakeBucketIntake, store: WatchedStore, tmp_path: Path
) -> None:
    recipients, ours = identities(tmp_path, "ours")
    writer = BucketWriter(store.inner, "orders", PROFILE, recipients)
    writer.write_many(1, 3 * S, 4 * S, S // 2)
    writer.compact(1, 3 * S)
    write_seed(store, 3 * S + 40, "ab01", recipients=recipients)
    receiver = reads(intake, store, ours)
    receiver.start(["orders"])
    await seeded(intake, "ab01")
    await until(lambda: intake.written == at(1, 4 * S), "and its WAL")
    assert intake.wal_of(1) == wal_bytes(1, 3 * S, S)
    await receiver.stop()


async def test_an_old_seed_whose_identity_is_lost_is_an_alarm_and_hides_no_newer_one(
    intake: FakeBucketIntake, store: WatchedStore, tmp_path: Path
) -> None:
    lost, _ = identities(tmp_path, "lost")
    recipients, ours = identities(tmp_path, "ours")
    writer = BucketWriter(store.inner, "orders", PROFILE, recipients)
    writer.write_many(1, 3 * S, 6 * S, S // 2)
    write_seed(store, 3 * S + 40, "ab01", recipients=recipients)
    write_seed(store, 4 * S + 40, "ab02", recipients=lost)
    receiver = reads(intake, store, ours)
    receiver.start(["orders"])
    await until(lambda: intake.of_kind("bucket_failed"), "it is an alarm")
    (error,) = intake.of_kind("bucket_failed")
    assert error.code is Code.IDENTITY_MISSING
    assert "ab02" in error.what
    await seeded(intake, "ab01")
    assert intake.sealed is error, "also while the bucket is read"
    await receiver.stop()
    assert intake.sealed is None


async def test_the_alarm_ends_when_the_seed_that_cannot_be_opened_is_removed(
    intake: FakeBucketIntake,
    store: WatchedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "MAX_PROOF_PAUSE_SECONDS", 0.05)
    intake.wanted = False
    receiver = reads(intake, store, with_a_sealed_seed(store, tmp_path))
    receiver.start(["orders"])
    await until(lambda: len(intake.of_kind("bucket_failed")) > 1, "it is said again")
    assert not intake.times_answered
    keys = Keys("orders", PROFILE.incarnation)
    store.inner.delete([each.key for each in store.inner.listing(keys.all_seeds)])
    await until(lambda: intake.times_answered, "it is over")
    assert intake.sealed is None
    await receiver.stop()


@pytest.mark.parametrize("wanted", [False, True])
async def test_the_alarm_ends_although_the_bucket_refused_to_be_looked_into_meanwhile(
    intake: FakeBucketIntake,
    store: WatchedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: bool,
) -> None:
    monkeypatch.setattr(reader, "MAX_PROOF_PAUSE_SECONDS", 0.05)
    intake.wanted = False
    receiver = reads(intake, store, with_a_sealed_seed(store, tmp_path))
    receiver.start(["orders"])
    await until(lambda: intake.sealed, "it is an alarm")
    refused = LogshipError(Code.BUCKET_REFUSED, "access denied", "give the right")

    def fail(operation: str, key: str) -> None:
        raise refused

    store.fail = fail
    await until(lambda: refused in intake.of_kind("bucket_failed"), "it is refused")
    if wanted:
        intake.wanted = True
        receiver.wake("orders")
        failed = intake.of_kind("bucket_failed").count(refused)
        await until(lambda: intake.of_kind("bucket_failed").count(refused) > failed + 1, "again")
        intake.wanted = False
        receiver.wake("orders")
    assert intake.sealed is not None
    intake.sealed = None
    store.fail = lambda operation, key: None
    await until(lambda: intake.sealed, "it is found again")
    assert not intake.times_answered
    keys = Keys("orders", PROFILE.incarnation)
    store.inner.delete([each.key for each in store.inner.listing(keys.all_seeds)])
    await until(lambda: intake.times_answered, "it is over")
    assert intake.sealed is None
    await receiver.stop()


async def test_old_wal_whose_identity_is_lost_is_found_at_the_start(
    intake: FakeBucketIntake, store: WatchedStore, tmp_path: Path
) -> None:
    lost, _ = identities(tmp_path, "lost")
    recipients, ours = identities(tmp_path, "ours")
    BucketWriter(store.inner, "orders", PROFILE, lost).write_many(1, 3 * S, 4 * S, S // 2)
    later = msgspec.structs.replace(PROFILE, max_connections=PROFILE.max_connections + 1)
    BucketWriter(store.inner, "orders", later, recipients).write_many(1, 4 * S, 5 * S, S // 2)
    intake.wanted = False
    receiver = reads(intake, store, ours)
    receiver.start(["orders"])
    await until(lambda: intake.of_kind("bucket_failed"), "it is an alarm")
    (error,) = intake.of_kind("bucket_failed")
    assert error.code is Code.IDENTITY_MISSING
    assert "0000000000300000" in error.what
    await receiver.stop()


@pytest.mark.parametrize("which", ["another", "none"])
async def test_a_wrong_identity_is_found_at_the_start_though_the_bucket_is_not_needed(
    which: str, intake: FakeBucketIntake, store: WatchedStore, tmp_path: Path
) -> None:
    recipients, _ = identities(tmp_path, "theirs")
    _, ours = identities(tmp_path, "ours")
    writer = BucketWriter(store.inner, "orders", PROFILE, recipients)
    writer.write_many(1, 3 * S, 4 * S, S // 2)
    intake.wanted = False
    receiver = reads(intake, store, ours if which == "another" else Identities([]))
    receiver.start(["orders"])
    await until(lambda: intake.of_kind("bucket_failed"), "it is an alarm")
    (error,) = intake.of_kind("bucket_failed")
    assert error.code is Code.IDENTITY_MISSING
    assert "bucket.identity_files" in error.hint
    await receiver.stop()

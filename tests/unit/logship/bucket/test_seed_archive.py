"""Seeds as objects: what was written comes back as it was, or is said to be damaged."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyrage
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from applier.receivers.seed.receiver import SeedReceiver
from applier.restore.seeds import find_seeds
from logship.bucket.keys import Keys
from logship.bucket.reading import Bucket
from logship.bucket.seed_archive import (
    PLAIN,
    Opens,
    Seals,
    SeedArchiveWriter,
    SeedInfo,
    find_seed,
    list_seeds,
    read_seed,
    remove_seed,
    unfinished_seeds,
)
from logship.bucket.seed_archive.writing import UPLOADS
from logship.errors import Code, LogshipError
from logship.frames import SeedAborted, SeedBegin, SeedChunk, SeedEnd
from logship.identity import Incarnation
from logship.objects import Bytes, NotDeleted, ObjectStore
from logship.objects.directory import DirectoryStore
from logship.objects.encryption import Identities, Recipients, generate_identity
from logship.postgres.run_as import RunAs
from logship.seal import unseal
from tests.support.memory_store import MemoryStore
from tests.unit.applier.receivers.seed.archives import (
    SYSTEM_IDENTIFIER,
    SeedFrames,
    data_chunk,
    entry,
    link_entry,
    manifest,
    seed,
)

KEYS = Keys("main", Incarnation(SYSTEM_IDENTIFIER, 17))
OURSELVES = RunAs("us", os.geteuid(), os.getegid(), (), changes=False)
BASE = {"backup_label": b"START", "base/1/1259": os.urandom(3000), "base/1/empty": b""}
IN_TABLESPACE = {"PG_17_202406281/5/16390": b"y" * 100_000}
LISTED = BASE | {f"pg_tblspc/16385/{name}": content for name, content in IN_TABLESPACE.items()}
BASE_ARCHIVE = (
    entry("backup_label", BASE["backup_label"])
    + entry("base/")
    + entry("base/1/")
    + entry("base/1/1259", BASE["base/1/1259"])
    + entry("base/1/empty")
    + entry("pg_tblspc/")
    + link_entry("pg_tblspc/16385/", "/mnt/fast")
)
TABLESPACE_ARCHIVE = (
    entry("PG_17_202406281/")
    + entry("PG_17_202406281/5/")
    + entry("PG_17_202406281/5/16390", IN_TABLESPACE["PG_17_202406281/5/16390"])
)
ARCHIVES = [("16385", TABLESPACE_ARCHIVE), ("", BASE_ARCHIVE + bytes(1024))]


class Age:
    """Sealed as `age` does."""

    def __init__(self) -> None:
        self._identity = pyrage.x25519.Identity.generate()

    def seal(self, body: bytes) -> bytes:
        return pyrage.encrypt(body, [self._identity.to_public()])

    def open(self, body: bytes, where: str) -> bytes:
        try:
            return pyrage.decrypt(body, [self._identity])
        except pyrage.DecryptError as error:
            raise LogshipError(Code.OBJECT_DAMAGED, f"{where}: {error}") from error


def frames(seed_id: str = "ab12", *, files: Mapping[str, bytes] = LISTED) -> SeedFrames:
    return seed(ARCHIVES, manifest(files), seed_id=seed_id, tablespaces=[(16385, "/mnt/fast")])


def give(writer: SeedArchiveWriter, some: SeedFrames) -> None:
    for frame, payload in some:
        writer.take(frame, payload)


def written(
    store: ObjectStore, recipients: Seals = PLAIN, *, seed_id: str = "ab12"
) -> SeedArchiveWriter:
    writer = SeedArchiveWriter(store, KEYS, recipients, part_bytes=9000)
    give(writer, frames(seed_id))
    return writer


def contents(some: Sequence[tuple[SeedBegin | SeedChunk | SeedEnd, bytes]]) -> dict[str, bytes]:
    """The raw bytes of each archive."""
    found: dict[str, bytes] = {}
    current = ""
    for frame, payload in some:
        if isinstance(frame, SeedChunk) and frame.kind == "data":
            raw = unseal(frame.codec, frame.crc32c, frame.raw_bytes, payload, max_raw_bytes=1 << 21)
            found[current] += raw
        elif isinstance(frame, SeedChunk):
            current = frame.archive or frame.kind
            found[current] = b""
    return found


def only_seed(store: ObjectStore, identities: Opens = PLAIN) -> SeedInfo:
    (info,) = list_seeds(store, KEYS, identities)
    return info


def code_of(call: Any) -> Code:
    with pytest.raises(LogshipError) as caught:
        call()
    return caught.value.code


def keys_of(store: ObjectStore) -> list[str]:
    return [each.key for each in store.listing("")]


@pytest.mark.parametrize("sealing", [PLAIN, Age()], ids=["plain", "age"])
async def test_what_is_written_is_received(tmp_path: Path, sealing: Any) -> None:
    store = DirectoryStore(tmp_path / "bucket")
    writer = written(store, sealing)
    info = only_seed(store, sealing)
    assert info.name == writer.name and info.raw_bytes == writer.raw_bytes
    assert info.stored_bytes == writer.stored_bytes
    assert [len(each.parts) for each in info.archives] == [13, 1, 1]
    back = list(read_seed(store, KEYS, info, sealing))
    assert contents(back) == contents(frames())
    assert back == list(read_seed(store, KEYS, info, sealing))
    (tmp_path / "place").mkdir()
    receiver = SeedReceiver(
        tmp_path / "place", run_as=OURSELVES, keep_free_bytes=0, system_identifier=SYSTEM_IDENTIFIER
    )
    for frame, payload in back:
        if isinstance(frame, SeedBegin):
            await receiver.begin(frame)
        elif isinstance(frame, SeedChunk):
            await receiver.chunk(frame, payload)
        else:
            placed = await receiver.end(frame, _nothing_runs)
    assert placed.files == 4 and placed.end_lsn == info.end_lsn
    assert (tmp_path / "place/data/base/1/1259").read_bytes() == BASE["base/1/1259"]


async def _nothing_runs() -> None:
    """There is no standby to stop."""


def test_an_archive_is_a_tar_stream_for_other_tools(tmp_path: Path) -> None:
    written(DirectoryStore(tmp_path / "bucket"))
    folder = tmp_path / "bucket" / KEYS.all_seeds / "0000000002000028-ab12"
    parts = sorted((folder / "16385").iterdir())
    raw = b"".join(
        zstandard.ZstdDecompressor()
        .stream_reader(part.read_bytes(), read_across_frames=True)
        .read()
        for part in parts
    )
    with tarfile.open(fileobj=io.BytesIO(raw + bytes(1024))) as tar:
        file = tar.extractfile("PG_17_202406281/5/16390")
        assert file is not None and file.read() == IN_TABLESPACE["PG_17_202406281/5/16390"]
    listed = subprocess.run(["tar", "t"], input=raw, capture_output=True, check=True)
    assert b"PG_17_202406281/5/16390" in listed.stdout


def test_seeds_are_listed_oldest_first_and_unfinished_ones_are_not() -> None:
    store = MemoryStore()
    assert list_seeds(store, KEYS) == []
    for seed_id in ("cc", "aa"):
        written(store, seed_id=seed_id)
    give(SeedArchiveWriter(store, KEYS), frames("bb")[:-1])
    store.put(f"{KEYS.all_seeds}strange/end", b"")
    assert [info.name.seed_id for info in list_seeds(store, KEYS)] == ["cc", "aa"]
    assert [name.seed_id for name in unfinished_seeds(store, KEYS)] == ["bb"]
    for info in list_seeds(store, KEYS):
        assert remove_seed(store, KEYS, info.name) == []
        assert find_seed(store, KEYS, info.name) is None
    assert not any("-aa/" in key or "-cc/" in key for key in keys_of(store))


def test_a_damaged_seed_does_not_hide_the_others() -> None:
    store = MemoryStore()
    written(store, seed_id="aa")
    name = written(store, seed_id="bb").name
    assert name is not None
    store.put(KEYS.seed(name, "end"), b"nonsense")
    assert only_seed(store).name.seed_id == "aa"
    assert code_of(partial(find_seed, store, KEYS, name)) is Code.OBJECT_DAMAGED


def test_seeds_that_no_identity_opens_do_not_hide_the_others(tmp_path: Path) -> None:
    lost, ours = (generate_identity() for _ in range(2))
    store = MemoryStore()
    written(store, Recipients([lost.recipient]), seed_id="aa")
    file = tmp_path / "ours"
    file.write_text(ours.file_text)
    file.chmod(0o600)
    identities = Identities([file])
    listing = partial(list_seeds, store, KEYS, identities)
    assert code_of(partial(listing, skip_sealed=True)) is Code.IDENTITY_MISSING
    written(store, Recipients([ours.recipient]), seed_id="bb")
    assert [info.name.seed_id for info in listing(skip_sealed=True)] == ["bb"]
    assert code_of(listing) is Code.IDENTITY_MISSING
    hidden = MemoryStore()
    written(hidden, Recipients([lost.recipient]), seed_id="cc")
    in_bucket, in_copies = Bucket(store, KEYS, identities), Bucket(hidden, KEYS, identities)
    assert [each.info.name.seed_id for each in find_seeds([in_copies, in_bucket])] == ["bb"]
    assert code_of(partial(find_seeds, [in_copies])) is Code.IDENTITY_MISSING


def test_a_seed_that_is_there_already_is_passed_over() -> None:
    store = MemoryStore()
    written(store)
    before = {each.key: each.etag for each in store.listing("")}
    again = SeedArchiveWriter(store, KEYS, part_bytes=70_000)
    give(again, frames()[:-1])
    again.abort()
    give(again, frames())
    assert {each.key: each.etag for each in store.listing("")} == before
    assert contents(list(read_seed(store, KEYS, only_seed(store)))) == contents(frames())


def test_chunks_may_come_again_but_not_be_missing_or_damaged() -> None:
    store = MemoryStore()
    writer = SeedArchiveWriter(store, KEYS)
    some = frames()
    assert code_of(partial(writer.take, *some[1])) is Code.SEED_FAILED
    give(writer, some[:6])
    give(writer, some[:3])
    assert code_of(partial(writer.take, *some[7])) is Code.BAD_FRAME
    damaged = bytearray(some[6][1])
    damaged[-1] ^= 1
    assert code_of(partial(writer.take, some[6][0], bytes(damaged))) is Code.CHECKSUM_MISMATCH
    assert code_of(partial(writer.take, *some[-1])) is Code.BAD_FRAME
    give(writer, some[6:])
    give(writer, some[-1:])
    assert not writer.is_writing
    assert contents(list(read_seed(store, KEYS, only_seed(store)))) == contents(some)


@pytest.mark.parametrize("how", ["told", "abort", "another"])
def test_an_aborted_seed_leaves_nothing_behind(how: str) -> None:
    store = MemoryStore()
    writer = SeedArchiveWriter(store, KEYS, part_bytes=5000)
    give(writer, frames()[:-1])
    assert len(keys_of(store)) > 5
    if how == "told":
        writer.take(SeedAborted(seed_id="other", code="seed-failed", what="no"))
        assert writer.is_writing
        writer.take(SeedAborted(seed_id="ab12", code="seed-failed", what="no"))
    elif how == "abort":
        writer.abort()
    else:
        give(writer, frames("cd34"))
        assert only_seed(store).name.seed_id == "cd34"
    assert not any("ab12" in key for key in keys_of(store))


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (frames(files=LISTED | {"base/1/1259": b"z" * 3000}), Code.SEED_MANIFEST_MISMATCH),
        (frames(files=LISTED | {"base/1/2": b""}), Code.SEED_MANIFEST_MISMATCH),
        (frames(files=BASE), Code.SEED_MANIFEST_MISMATCH),
        (
            seed(ARCHIVES, b"", seed_id="ab", tablespaces=[(16385, "/")]),
            Code.SEED_MANIFEST_MISMATCH,
        ),
        (
            seed(
                ARCHIVES,
                manifest(LISTED, system_identifier=1),
                seed_id="ab",
                tablespaces=[(16385, "/")],
            ),
            Code.SYSTEM_IDENTIFIER_MISMATCH,
        ),
        (seed(ARCHIVES, manifest(LISTED), seed_id="ab"), Code.BAD_TAR),
        (
            seed(ARCHIVES[1:], manifest(BASE), seed_id="ab", tablespaces=[(16385, "/")]),
            Code.BAD_TAR,
        ),
        (seed([("", BASE_ARCHIVE[:-5])], manifest(BASE), seed_id="ab"), Code.BAD_TAR),
        (seed([("", BASE_ARCHIVE * 2)], manifest(BASE), seed_id="ab"), Code.BAD_TAR),
        (seed([("", BASE_ARCHIVE)], manifest(BASE), seed_id="../ab"), Code.BAD_FRAME),
    ],
    ids=[
        "another checksum",
        "a file is missing",
        "a file too many",
        "no manifest",
        "another cluster",
        "an unannounced tablespace",
        "a tablespace is missing",
        "cut short",
        "a file twice",
        "a name that leads out",
    ],
)
def test_a_backup_that_is_not_what_its_manifest_says_is_never_complete(
    changed: SeedFrames, code: Code
) -> None:
    store = MemoryStore()
    writer = SeedArchiveWriter(store, KEYS)
    assert code_of(partial(give, writer, changed)) is code
    if writer.is_writing:
        assert code_of(partial(writer.take, *changed[-1])) is code
    assert list_seeds(store, KEYS) == []
    writer.abort()
    assert keys_of(store) == []
    give(writer, frames())
    assert only_seed(store).raw_bytes == writer.raw_bytes


class Failing(MemoryStore):
    """Out of order after some parts."""

    parts_left = 3

    def put(
        self, key: str, data: Bytes, metadata: Mapping[str, str] | None = None, **conditions: Any
    ) -> str:
        if "/16385/" in key:
            if not self.parts_left:
                raise LogshipError(Code.BUCKET_UNREACHABLE, "gone", retryable=True)
            self.parts_left -= 1
        return super().put(key, data, metadata, **conditions)


def test_a_store_that_fails_ends_the_seed() -> None:
    store = Failing()
    writer = SeedArchiveWriter(store, KEYS, part_bytes=5000)
    assert code_of(partial(give, writer, frames())) is Code.BUCKET_UNREACHABLE
    assert code_of(partial(writer.take, *frames()[-1])) is Code.BUCKET_UNREACHABLE
    writer.abort()
    assert keys_of(store) == []


class Stalling(MemoryStore):
    """Takes no part while `stalls`."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()
        self.begun = threading.Semaphore(0)

    def put(
        self, key: str, data: Bytes, metadata: Mapping[str, str] | None = None, **conditions: Any
    ) -> str:
        if "/16385/" in key:
            self.begun.release()
            assert self.goes_on.wait(60)
        return super().put(key, data, metadata, **conditions)


def test_no_more_than_a_few_parts_are_on_their_way() -> None:
    store = Stalling()
    writer = SeedArchiveWriter(store, KEYS, part_bytes=5000)
    maker = threading.Thread(target=give, args=(writer, frames()))
    maker.start()
    try:
        for _ in range(UPLOADS):
            assert store.begun.acquire(timeout=60)
        # Held: what is on its way, a part that is full, and the chunk that did not fit into it.
        assert writer.raw_bytes <= (UPLOADS + 1) * 5000 + 700
    finally:
        store.goes_on.set()
    maker.join(60)
    assert only_seed(store).raw_bytes == writer.raw_bytes


def test_who_aborts_waits_for_parts_on_their_way_and_removes_them_too() -> None:
    store = Stalling()
    writer = SeedArchiveWriter(store, KEYS, part_bytes=5000)
    for frame, payload in frames():
        writer.take(frame, payload)
        if writer.raw_bytes > 2 * 5000:
            break
    assert store.begun.acquire(timeout=60)
    aborting = threading.Thread(target=writer.abort)
    aborting.start()
    aborting.join(0.05)
    assert aborting.is_alive()
    store.goes_on.set()
    aborting.join(60)
    assert keys_of(store) == []


class Locked(MemoryStore):
    """Lets nothing go whose key has `kept` in it."""

    kept = ""

    def delete(self, keys: Sequence[str]) -> list[NotDeleted]:
        refused = [key for key in keys if self.kept in key]
        super().delete([key for key in keys if key not in refused])
        return [NotDeleted(key, "locked") for key in refused]


@pytest.mark.parametrize("kept", ["/end", "/base/"])
def test_a_seed_that_may_not_be_removed_stays_whole_or_is_unfinished(kept: str) -> None:
    store = Locked()
    written(store)
    before = keys_of(store)
    store.kept = kept
    info = only_seed(store)
    assert {kept in each.key for each in remove_seed(store, KEYS, info.name)} == {True}
    if kept == "/end":
        assert keys_of(store) == before
        assert contents(list(read_seed(store, KEYS, info))) == contents(frames())
    else:
        assert list_seeds(store, KEYS) == []
        assert list(unfinished_seeds(store, KEYS)) == [info.name]


def test_an_iterator_that_is_not_read_to_its_end_can_be_closed() -> None:
    store = MemoryStore()
    written(store)
    before = set(threading.enumerate())  # those of other tests may end meanwhile
    reading = read_seed(store, KEYS, only_seed(store))
    for _ in range(4):
        next(reading)
    assert isinstance(reading, Generator)
    reading.close()
    assert set(threading.enumerate()) <= before


# --- damage ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound() -> dict[str, bytes]:
    """The objects of two seeds."""
    store = MemoryStore()
    written(store, seed_id="aa")
    written(store, seed_id="bb")
    return {key: _data(store, key) for key in keys_of(store)}


def _data(store: ObjectStore, key: str) -> bytes:
    fetched = store.get(key)
    assert fetched is not None
    return fetched.data


def _read_all(store: ObjectStore) -> list[dict[str, bytes]]:
    return [contents(list(read_seed(store, KEYS, info))) for info in list_seeds(store, KEYS)]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_is_always_noticed(sound: dict[str, bytes], data: st.DataObject) -> None:
    objects = dict(sound)
    key = data.draw(st.sampled_from(sorted(objects)))
    how = data.draw(st.sampled_from(["change", "cut", "grow", "lose", "swap"]))
    if how == "lose":
        del objects[key]
    elif how == "swap":
        other = data.draw(st.sampled_from(sorted(objects)))
        objects[key], objects[other] = objects[other], objects[key]
    elif how == "cut":
        objects[key] = objects[key][: data.draw(st.integers(0, len(objects[key]) - 1))]
    elif how == "grow":
        objects[key] += data.draw(st.binary(min_size=1, max_size=40))
    else:
        body = bytearray(objects[key])
        body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
        objects[key] = bytes(body)
    store = MemoryStore(objects)
    try:
        read = _read_all(store)
    except LogshipError as error:
        assert error.code is Code.OBJECT_DAMAGED
        return
    # What is read is what was written: a seed whose documents are damaged is not read at all.
    assert all(each == contents(frames()) for each in read)
    is_document = key.rpartition("/")[2] in ("begin", "end")
    assert len(read) == (1 if is_document else 2) or how == "swap"


@given(st.lists(st.integers(100, 4000), min_size=1, max_size=30), st.integers(1, 9000))
@settings(max_examples=40, deadline=None)
def test_chunks_and_parts_of_any_size_make_the_same_archives(
    sizes: list[int], part_bytes: int
) -> None:
    store = MemoryStore()
    some: SeedFrames = [frames()[0]]
    sequence = 0
    for archive, raw in (*ARCHIVES, ("manifest", manifest(LISTED))):
        kind = "manifest" if archive == "manifest" else "archive"
        start = SeedChunk(
            seed_id="ab12",
            sequence=sequence,
            kind=kind,
            archive="" if kind == "manifest" else archive,
        )
        some.append((start, b""))
        sequence += 1
        at = turn = 0
        while at < len(raw):
            size = sizes[turn % len(sizes)]
            some.append(data_chunk("ab12", sequence, raw[at : at + size]))
            at, turn, sequence = at + size, turn + 1, sequence + 1
    last = frames()[-1][0]
    assert isinstance(last, SeedEnd)
    some.append((SeedEnd(seed_id="ab12", sequence=sequence, timeline=1, end_lsn=last.end_lsn), b""))
    give(SeedArchiveWriter(store, KEYS, part_bytes=part_bytes), some)
    info = only_seed(store)
    assert all(
        part.raw_bytes <= max(part_bytes, *sizes) for each in info.archives for part in each.parts
    )
    assert contents(list(read_seed(store, KEYS, info))) == contents(frames())

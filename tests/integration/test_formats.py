"""docs/formats.md reads a bucket with age and zstd alone: its commands, as they stand there."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from logship.bucket.keys import Keys, Place
from logship.bucket.seed_archive import SeedArchiveWriter
from logship.bucket.wal_objects import Head, metadata_of, pack
from logship.frames import SeedBegin, SeedEnd
from logship.identity import Incarnation, Profile
from logship.lsn import Lsn, Position
from logship.objects import ObjectStore
from logship.objects.directory import DirectoryStore
from logship.objects.encryption import Recipients, generate_identity
from logship.seal import seal
from shipper.destinations import Acked, Facts, Lost, SeedFinished
from shipper.destinations.bucket.destination import BucketDestination
from shipper.destinations.bucket.options import BucketOptions
from tests.support.link_frames import profile
from tests.support.waiting import until
from tests.unit.applier.receivers.seed.archives import SeedFrames, entry, manifest, seed

pytestmark = pytest.mark.integration

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
KEYS = Keys("main", Incarnation(7301234567890123456, 17))
PLAIN = "plain"
SEGMENT_BYTES = 16 << 20
HISTORY = b"1\t0/4000000\tno recovery target specified\n"
PROFILE = profile(wal_segment_size=SEGMENT_BYTES)
SEED_LSN = 3 * SEGMENT_BYTES + 40
SEED_ID = "5f0c1d2e"
PIECE_BYTES = 1 << 20
FILES = {"PG_VERSION": b"17\n", "base/1/1259": bytes(range(256)) * 5000}

_TOOLS = ("age", "zstd", "tar", "truncate")


def documented_commands() -> str:
    """All blocks of shell, in order."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) >= 7
    return "\n".join(blocks)


def manifest_of(files: dict[str, bytes]) -> bytes:
    return manifest(files, start=str(Lsn(SEED_LSN)), end=str(Lsn(SEED_LSN + 500)))


def seed_frames() -> SeedFrames:
    archive = b"".join(entry(name, content) for name, content in FILES.items()) + bytes(1024)
    frames: SeedFrames = []
    for frame, payload in seed([("", archive)], manifest_of(FILES), seed_id=SEED_ID):
        if isinstance(frame, SeedBegin):
            frame = msgspec.structs.replace(frame, start_lsn=SEED_LSN)
        elif isinstance(frame, SeedEnd):
            frame = msgspec.structs.replace(frame, end_lsn=SEED_LSN + 500)
        frames.append((frame, payload))
    return frames


class Shipper:
    """The bucket's own destination, given WAL and a seed."""

    def __init__(self, store: ObjectStore, recipients: Recipients, directory: Path) -> None:
        directory.mkdir()
        options = BucketOptions(
            instance="main",
            shipper_id="shipper-a",
            boot_id="boot-1",
            protection="async",
            state_directory=directory,
            max_delay_seconds=0.1,
            max_object_bytes=6 << 20,
            compact_grace_seconds=0.1,
            sealed=bool(recipients),
        )

        def take_seeds(at: ObjectStore, keys: Keys, profile: Profile) -> SeedArchiveWriter:
            return SeedArchiveWriter(at, keys, recipients, profile=profile, part_bytes=300_000)

        self._destination = BucketDestination(
            store, options, seal=recipients.seal, make_seed_taker=take_seeds
        )
        self._acked = Position(0, Lsn(0))

    async def ship(self, third: bytes, fourth: bytes) -> None:
        """Segment 3 whole, segment 4 so far, and a second timeline behind that."""
        facts = Facts(PROFILE, 1, Lsn(1 << 40), True, "", "")
        destination = self._destination
        await destination.connect(facts)
        for frame, payload in seed_frames():
            await destination.send_seed(frame, payload)
        while not isinstance(await destination.next_event(), SeedFinished):
            pass
        destination.resume(Position(1, Lsn(3 * SEGMENT_BYTES)))
        await self._send(1, 3 * SEGMENT_BYTES, third)
        await self._send(1, 4 * SEGMENT_BYTES, fourth)
        destination.send_history(2, HISTORY)
        await self._send(2, 4 * SEGMENT_BYTES, fourth[:1000])
        await self._durable(Position(2, Lsn(4 * SEGMENT_BYTES + 1000)))

    async def _send(self, timeline: int, lsn: int, raw: bytes) -> None:
        pieces = range(0, len(raw), PIECE_BYTES)
        for number, start in enumerate(pieces):
            piece = raw[start : start + PIECE_BYTES]
            await self._destination.room(len(piece))
            sealed = seal(piece, compress=number % 2 == 0)
            self._destination.send_span(timeline, lsn + start, sealed, lsn + start + len(piece))

    async def _durable(self, position: Position) -> None:
        while self._acked < position:
            event = await self._destination.next_event()
            assert not isinstance(event, Lost), event
            if isinstance(event, Acked):
                self._acked = event.durable

    async def close(self) -> None:
        await self._destination.close("the test is over")


def names_of(store: ObjectStore, prefix: str) -> list[str]:
    return [each.key.removeprefix(prefix) for each in store.listing(prefix)]


@pytest.mark.skipif(
    not os.environ.get("CI") and not all(map(shutil.which, _TOOLS)),
    reason=f"not all of {', '.join(_TOOLS)} are installed",
)
async def test_a_bucket_can_be_read_with_age_and_zstd_alone(tmp_path: Path) -> None:
    pair = generate_identity()
    (tmp_path / "identity.txt").write_text(pair.file_text)
    (tmp_path / "identity.txt").chmod(0o600)
    store = DirectoryStore(tmp_path)
    randomness = random.Random(4)
    third, fourth = (randomness.randbytes(8 << 20) + bytes(8 << 20) for _ in range(2))
    fourth = fourth[:9_000_000]
    recipients = Recipients([generate_identity().recipient, pair.recipient])
    shipper = Shipper(store, recipients, tmp_path / "state")
    async with asyncio.timeout(200):
        await shipper.ship(third, fourth)
        joined = KEYS.segment(1, 3 * SEGMENT_BYTES, SEGMENT_BYTES)
        of_third = KEYS.wal(Place(1, Lsn(3 * SEGMENT_BYTES)))[:-6]
        await until(lambda: not names_of(store, of_third), "the segment is one object", 100)
    await shipper.close()
    assert store.describe(joined) is not None
    of_fourth = names_of(store, KEYS.wal(Place(1, Lsn(4 * SEGMENT_BYTES)))[:-6])
    assert len(of_fourth) >= 3, "spans and a marker"
    body, raw_bytes, checksum = pack([seal(third)])
    head = Head(timeline=1, start_lsn=3 << 24, raw_bytes=raw_bytes, crc32c=checksum)
    plain = f"{PLAIN}/segments/00000001/000000010000000000000003"
    store.put(plain, body, metadata_of(head), only_if_absent=True)

    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-euo", "pipefail", "-c", documented_commands()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")

    found = tmp_path / KEYS.root
    assert (found / "000000010000000000000003").read_bytes() == third
    padded = (found / "000000010000000000000004").read_bytes()
    assert len(padded) == SEGMENT_BYTES
    assert padded[: len(fourth)] == fourth
    assert not any(padded[len(fourth) :])
    assert (found / "00000002.history").read_bytes() == HISTORY
    assert json.loads((found / "profiles.json").read_bytes())["wal_segment_size"] == SEGMENT_BYTES
    for name in ("begin.json", "end.json"):
        assert json.loads((found / name).read_bytes())["document"]
    for name, content in FILES.items():
        assert (found / "data" / name).read_bytes() == content
    assert (found / "data/backup_manifest").read_bytes() == manifest_of(FILES)
    assert (found / "plain-segment").read_bytes() == third

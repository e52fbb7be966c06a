"""docs/formats.md reads a bucket with age and zstd alone: its commands, as they stand there."""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard

from logship.bucket.keys import Keys, Place
from logship.bucket.wal_objects import Head, Marker, metadata_of, pack
from logship.identity import Incarnation
from logship.lsn import Lsn
from logship.objects import ObjectStore
from logship.objects.directory import DirectoryStore
from logship.objects.encryption import Recipients, generate_identity
from logship.seal import seal

pytestmark = pytest.mark.integration

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
KEYS = Keys("main", Incarnation(7301234567890123456, 17))
PLAIN = "plain"
SEGMENT_BYTES = 16 << 20
HISTORY = b"1\t0/4000000\tno recovery target specified\n"
PROFILE = b'{"major":17}'
FILES = {"PG_VERSION": b"17\n", "base/1/1259": bytes(range(256)) * 5000}

_TOOLS = ("age", "zstd", "tar", "truncate")


def documented_commands() -> str:
    """All blocks of shell, in order."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) >= 7
    return "\n".join(blocks)


def put_span(
    store: ObjectStore, recipients: Recipients, key: str, lsn: int, raw: bytes, pieces: int = 1
) -> None:
    """WAL as a shipper puts it: from sealed spans, some of which are compressed already."""
    step = len(raw) // pieces + 1
    spans = [
        seal(raw[start : start + step], compress=number % 2 == 0)
        for number, start in enumerate(range(0, len(raw), step))
    ]
    body, raw_bytes, checksum = pack(spans)
    head = Head(timeline=1, start_lsn=lsn, raw_bytes=raw_bytes, crc32c=checksum)
    store.put(key, recipients.seal(body), metadata_of(head), only_if_absent=True)


def put_seed(store: ObjectStore, recipients: Recipients) -> bytes:
    """A seed's objects; returns its manifest."""
    folder = f"{KEYS.all_seeds}0000000003000028-5f0c1d2e"
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, content in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    manifest = b'{"PostgreSQL-Backup-Manifest-Version": 1}'
    store.put(f"{folder}/begin", recipients.seal(b'{"crc32c":0,"document":{"is":"begin"}}'))
    for name, raw in {"base": tar.getvalue(), "manifest": manifest}.items():
        for number, start in enumerate(range(0, len(raw), 300_000)):
            part = zstandard.compress(raw[start : start + 300_000])
            store.put(f"{folder}/{name}/{number:06X}", recipients.seal(part))
    store.put(f"{folder}/end", recipients.seal(b'{"crc32c":0,"document":{"is":"end"}}'))
    return manifest


@pytest.mark.skipif(
    not os.environ.get("CI") and not all(map(shutil.which, _TOOLS)),
    reason=f"not all of {', '.join(_TOOLS)} are installed",
)
def test_a_bucket_can_be_read_with_age_and_zstd_alone(tmp_path: Path) -> None:
    pair = generate_identity()
    (tmp_path / "identity.txt").write_text(pair.file_text)
    (tmp_path / "identity.txt").chmod(0o600)
    recipients = Recipients([generate_identity().recipient, pair.recipient])
    store = DirectoryStore(tmp_path)
    randomness = random.Random(4)
    third, fourth = (randomness.randbytes(8 << 20) + bytes(8 << 20) for _ in range(2))
    fourth = fourth[:9_000_000]

    put_span(store, recipients, KEYS.segment(1, 3 * SEGMENT_BYTES, SEGMENT_BYTES), 3 << 24, third)
    for start, end in ((0, 1), (1, 70_000), (70_000, 8_500_000), (8_500_000, len(fourth))):
        lsn = Lsn((4 << 24) + start)
        put_span(store, recipients, KEYS.wal(Place(1, lsn)), lsn, fourth[start:end], pieces=3)
    place = Place(1, Lsn((4 << 24) + len(fourth)))
    marker = Head(
        timeline=1, start_lsn=place.lsn, marker=Marker(kind="timeline", timeline=2, lsn=place.lsn)
    )
    store.put(KEYS.wal(place), b"", metadata_of(marker))
    store.put(KEYS.history(2), recipients.seal(zstandard.compress(HISTORY)))
    store.put(KEYS.profile("0a1b"), recipients.seal(zstandard.compress(PROFILE)))
    manifest = put_seed(store, recipients)
    put_span(
        store,
        Recipients([]),
        f"{PLAIN}/segments/00000001/000000010000000000000003",
        3 << 24,
        third,
    )

    done = subprocess.run(
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
    assert (found / "profiles.json").read_bytes() == PROFILE
    assert b"begin" in (found / "begin.json").read_bytes()
    assert b"end" in (found / "end.json").read_bytes()
    for name, content in FILES.items():
        assert (found / "data" / name).read_bytes() == content
    assert (found / "data/backup_manifest").read_bytes() == manifest
    assert (found / "plain-segment").read_bytes() == third

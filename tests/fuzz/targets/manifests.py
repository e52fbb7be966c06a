"""Backup manifests, their own checksum put right.

Input: flags (1: the checksum as it comes), text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any

from logship.errors import Code, LogshipError
from logship.postgres.backup_manifest import (
    ArrivedFile,
    Manifest,
    check_identity,
    compare,
    parse_manifest,
)
from tests.fuzz.errors import check_refusal
from tests.fuzz.mutation import mutate_document
from tests.fuzz.target import Input, MutateBytes
from tests.unit.applier.receivers.seed import archives

RAW = 1
FILES = {"PG_VERSION": b"17\n", "base/1/1259": b"x" * 100, "pg_tblspc/16384/a": b""}
CODES = (Code.SEED_MANIFEST_MISMATCH, Code.SYSTEM_IDENTIFIER_MISMATCH)
_LAST_LINE = re.compile(rb'"Manifest-Checksum": "[^"]*"\}\n?\Z')


def run(data: bytes) -> bool:
    fields = Input(data)
    flags, text = fields.number(), fields.rest()
    if not flags & RAW:
        text = archives.signed(_LAST_LINE.sub(b"", text))
    try:
        manifest = parse_manifest(text)
    except LogshipError as error:
        check_refusal(error, Code.SEED_MANIFEST_MISMATCH)
        return False
    assert manifest.version in (1, 2)
    for path, listed in manifest.files.items():
        assert path
        assert b"\0" not in path
        assert listed.size_bytes >= 0
    for each in manifest.wal_ranges:
        assert 0 < each.timeline < 1 << 32
        assert 0 <= each.start_lsn < 1 << 64
    _compare(manifest)
    return True


def _compare(manifest: Manifest) -> None:
    """With what it lists itself, and with nothing of it."""
    digests: list[bytes] = []

    def digest(path: bytes, algorithm: str) -> bytes:
        assert path in manifest.files
        digests.append(path)
        return hashlib.new(algorithm, b"").digest()

    same = {path: ArrivedFile(each.size_bytes, 0) for path, each in manifest.files.items()}
    for arrived in (same, {}, {b"other": ArrivedFile(1, 1)}):
        try:
            compare(manifest, arrived, digest)
        except LogshipError as error:
            check_refusal(error, *CODES)
    try:
        check_identity(manifest, system_identifier=7, timeline=1, start_lsn=1, end_lsn=2)
    except LogshipError as error:
        check_refusal(error, *CODES)


def seeds() -> Iterator[bytes]:
    for changes in (
        {},
        {"version": 1},
        {"algorithm": "SHA256"},
        {"algorithm": "NONE"},
        {"encode_paths": True},
    ):
        yield b"\0" + archives.manifest(FILES, **changes)
    yield b"\1" + archives.manifest(FILES)


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    try:
        document: Any = json.loads(data[1:])
        changed = mutate_document(document, random)
        body = json.dumps(changed, ensure_ascii=random.random() < 0.5)
        if isinstance(changed, dict) and random.random() < 0.9:
            changed.pop("Manifest-Checksum", None)
            body = json.dumps(changed)[:-1] + ',\n"Manifest-Checksum": ""}\n'
        return b"\0" + body.encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return other(data, max_bytes)

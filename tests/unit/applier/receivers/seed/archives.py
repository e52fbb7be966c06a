"""Archives, manifests and seeds as PostgreSQL makes them, for tests to bend."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence

import crc32c

from logship.frames import SeedBegin, SeedChunk, SeedEnd
from logship.seal import seal

SYSTEM_IDENTIFIER = 7301234567890123456
START_LSN = 0x2000028
END_LSN = 0x2000120
SeedFrames = list[tuple[SeedBegin | SeedChunk | SeedEnd, bytes]]


def header(
    name: bytes,
    size: int = 0,
    kind: bytes = b"0",
    link: bytes = b"",
    *,
    size_field: bytes | None = None,
    checksum: int | None = None,
) -> bytes:
    """What tarCreateHeader (src/port/tar.c) makes."""
    block = bytearray(512)
    block[: len(name[:100])] = name[:100]
    block[100:124] = b"0000600 0000000 0000000 "
    block[124:136] = size_field if size_field is not None else b"%011o " % size
    block[136:148] = b"00000000000 "
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%07o " % (sum(block) if checksum is None else checksum)
    return bytes(block)


def entry(name: str, content: bytes = b"") -> bytes:
    """A file (or, with a final slash, a directory) with its padding."""
    if name.endswith("/"):
        return header(name.encode(), kind=b"5")
    return header(name.encode(), len(content)) + content + bytes(-len(content) % 512)


def link_entry(name: str, target: str) -> bytes:
    return header(name.encode(), kind=b"2", link=target.encode())


def manifest(
    files: Mapping[str, bytes],
    *,
    version: int = 2,
    algorithm: str = "CRC32C",
    system_identifier: int = SYSTEM_IDENTIFIER,
    encode_paths: bool = False,
    start: str = "0/2000028",
    end: str = "0/2000120",
) -> bytes:
    """As backup_manifest.c lays it out, one file a line."""
    lines = [f'{{ "PostgreSQL-Backup-Manifest-Version": {version},']
    if version == 2:
        lines.append(f'"System-Identifier": {system_identifier},')
    listed = []
    for path, content in files.items():
        name = (
            f'"Encoded-Path": "{path.encode().hex()}"'
            if encode_paths
            else f'"Path": {json.dumps(path)}'
        )
        checksum = ""
        if algorithm != "NONE":
            digest = _digest(algorithm, content).hex()
            checksum = f', "Checksum-Algorithm": "{algorithm}", "Checksum": "{digest}"'
        listed.append(
            f'{{ {name}, "Size": {len(content)}, '
            f'"Last-Modified": "2024-05-01 10:00:00 GMT"{checksum} }}'
        )
    lines.append('"Files": [\n' + ",\n".join(listed) + "\n],")
    lines.append(
        f'"WAL-Ranges": [\n{{ "Timeline": 1, "Start-LSN": "{start}", "End-LSN": "{end}" }}\n],'
    )
    return signed(("\n".join(lines) + "\n").encode())


def signed(body: bytes) -> bytes:
    return body + b'"Manifest-Checksum": "%s"}\n' % hashlib.sha256(body).hexdigest().encode()


def seed(
    archives: Sequence[tuple[str, bytes]],
    manifest_bytes: bytes,
    *,
    seed_id: str = "s1",
    tablespaces: Sequence[tuple[int, str]] = (),
    chunk_bytes: int = 700,
    estimated_bytes: int = 0,
) -> SeedFrames:
    """The frames of a whole seed."""
    frames: SeedFrames = [
        (
            SeedBegin(
                seed_id=seed_id,
                timeline=1,
                start_lsn=START_LSN,
                estimated_bytes=estimated_bytes,
                tablespaces=list(tablespaces),
            ),
            b"",
        )
    ]
    sequence = 0
    for kind, archive, content in [
        *(("archive", name, content) for name, content in archives),
        ("manifest", "", manifest_bytes),
    ]:
        frames.append(
            (SeedChunk(seed_id=seed_id, sequence=sequence, kind=kind, archive=archive), b"")
        )
        sequence += 1
        for start in range(0, len(content), chunk_bytes):
            frames.append(data_chunk(seed_id, sequence, content[start : start + chunk_bytes]))
            sequence += 1
    frames.append((SeedEnd(seed_id=seed_id, sequence=sequence, timeline=1, end_lsn=END_LSN), b""))
    return frames


def data_chunk(seed_id: str, sequence: int, raw: bytes) -> tuple[SeedChunk, bytes]:
    sealed = seal(raw)
    chunk = SeedChunk(
        seed_id=seed_id,
        sequence=sequence,
        kind="data",
        raw_bytes=sealed.raw_bytes,
        crc32c=sealed.crc32c,
        codec=sealed.codec,
    )
    return chunk, bytes(sealed.payload)


def _digest(algorithm: str, content: bytes) -> bytes:
    if algorithm == "CRC32C":
        return crc32c.crc32c(content).to_bytes(4, sys.byteorder)
    return hashlib.new(algorithm.lower(), content).digest()

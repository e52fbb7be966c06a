"""Tar archives of seeds, header checksums put right, however they are cut.

Input: flags (1: the headers as they come; 2: a tablespace's archive), seed of the cuts, archive.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from logship.errors import Code, LogshipError
from logship.postgres.backup_tar import BLOCK_BYTES, Content, Entry, Kind, TarParser
from tests.fuzz.errors import check_refusal
from tests.fuzz.target import Input, MutateBytes, cut
from tests.unit.applier.receivers.seed.archives import entry, header, link_entry

RAW, OF_TABLESPACE = 1, 2
MAX_BYTES = 16 * 1024
SHORT_RUNS = 8000
END = bytes(2 * BLOCK_BYTES)


def run(data: bytes) -> bool:
    fields = Input(data)
    flags, cuts, archive = fields.number(), fields.number(2), fields.rest()
    if not flags & RAW:
        archive = mended(archive)
    name = "16384" if flags & OF_TABLESPACE else ""
    whole, refused = _events(name, [archive])
    pieces, refused_in_pieces = _events(name, cut(archive, cuts))
    assert pieces == whole
    assert refused == refused_in_pieces
    for event in whole:
        if isinstance(event, Entry):
            _check(event, name)
    return not refused


def _events(name: str, pieces: list[bytes]) -> tuple[list[Entry | bytes], str]:
    """Entries and their contents (joined), and why it was refused."""
    parser = TarParser(name)
    found: list[Entry | bytes] = []
    try:
        for piece in pieces:
            for event in parser.feed(piece):
                if isinstance(event, Entry):
                    found += [event, b""]
                else:
                    _add(found, event)
            assert len(parser._held) < BLOCK_BYTES
        parser.finish()
    except LogshipError as error:
        check_refusal(error, Code.BAD_TAR)
        return found, error.what
    return found, ""


def _add(found: list[Entry | bytes], content: Content) -> None:
    before, current = found[-1], found[-2]
    assert isinstance(before, bytes)
    assert isinstance(current, Entry)
    found[-1] = before + bytes(content.data)
    assert content.is_last == (len(before) + len(content.data) == current.size_bytes)


def _check(event: Entry, archive: str) -> None:
    parts = event.path.split(b"/")
    assert b"" not in parts
    assert b"." not in parts
    assert b".." not in parts
    assert b"\0" not in event.path
    assert len(event.path) < 100
    assert (event.kind is Kind.SYMLINK) == bool(event.link)
    if event.link:
        assert not archive
        assert parts[0] == b"pg_tblspc"
        assert len(parts) == 2
        assert parts[1].isdigit()
    if event.kind is not Kind.FILE:
        assert event.size_bytes == 0


def mended(archive: bytes) -> bytes:
    """The same with every header's checksum right, as far as the sizes lead."""
    blocks = bytearray(archive)
    at = 0
    while at + BLOCK_BYTES <= len(blocks):
        block = blocks[at : at + BLOCK_BYTES]
        at += BLOCK_BYTES
        if not any(block):
            continue
        block[148:156] = b" " * 8
        block[148:156] = b"%07o " % sum(block)
        blocks[at - BLOCK_BYTES : at] = block
        if block[156:157] == b"0":
            digits = bytes(block[124:136]).strip(b" \0")
            size = int(digits, 8) if digits and digits.strip(b"01234567") == b"" else 0
            at += size + -size % BLOCK_BYTES
    return bytes(blocks)


def seeds() -> Iterator[bytes]:
    base = entry("base/") + entry("base/1/") + entry("base/1/1259", b"p" * 700)
    space = entry("pg_tblspc/") + link_entry("pg_tblspc/16384/", "/srv/space")
    yield b"\0\0\0" + entry("backup_label", b"START") + base + space + END
    yield b"\0\1\0" + entry("PG_VERSION", b"17\n") + entry("empty") + entry("./pg_wal/")
    yield b"\2\2\0" + entry("PG_17_202406281/") + entry("PG_17_202406281/5/") + END
    yield b"\1\3\0" + entry("PG_VERSION", b"17\n") + END
    yield b"\0\4\0" + header(b"big", size_field=b"\x80" + (5).to_bytes(11, "big")) + bytes(512)


NAMES = (
    b"a", b"../a", b"/a", b"a/../b", b"a//b", b"./a", b"././a", b".", b"..", b"", b"x" * 100,
    b"x" * 99, b"pg_tblspc/16384", b"pg_tblspc/16384/", b"pg_tblspc/16384/a", b"pg_wal/x",
    b"pg_tblspc/4294967296/", b"pg_tblspc/01/", b"backup_manifest", b"tablespace_map",
    b"pg_tblspc", b"base", b"base/1", b"a\0b", b"\xff", b"a/", b"a//", b"\n", b"data.seeding",
    b"standby.signal", b"base/1/1259", b"pg_tblspc/16385/", b"pg_tblspc/\xd9\xa3/",
)  # fmt: skip
LINKS = (b"", b"/", b"/etc", b"../..", b".", b"x" * 100, b"base")
KINDS = (b"0", b"2", b"5", b"0", b"5", b"1", b"L", b"x", b"g", b"\0", b"3")


def random_entry(random: Random) -> bytes:
    """A header that may be odd in one way or two, with its contents."""
    kind = random.choice(KINDS)
    size = random.choice((0, 0, 1, 511, 512, 513)) if kind == b"0" else 0
    if random.random() < 0.05:
        size = random.randrange(1 << 20)
    link = random.choice(LINKS) if kind in b"21" or random.random() < 0.05 else b""
    block = header(random.choice(NAMES), size, kind, link)
    content = random.randbytes(min(size, 2000))
    return block + content + bytes(-len(content) % BLOCK_BYTES)


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    """An entry put in, repeated or left out, or one of its fields changed."""
    archive = data[3:]
    blocks = [archive[at : at + BLOCK_BYTES] for at in range(0, len(archive), BLOCK_BYTES)]
    at = random.randrange(len(blocks) + 1)
    kind = random.random()
    if kind < 0.4:
        blocks.insert(at, random_entry(random))
    elif kind < 0.6 and blocks:
        block = bytearray(blocks[at - 1].ljust(BLOCK_BYTES, b"\0"))
        start, values = random.choice(((0, NAMES), (156, KINDS), (157, LINKS), (345, NAMES)))
        value = random.choice(values)
        block[start : start + len(value) + 1] = value + b"\0" * (start != 156)
        blocks[at - 1] = bytes(block[:BLOCK_BYTES])
    elif kind < 0.8:
        blocks[at:at] = blocks[at - 1 : at]
    elif blocks:
        del blocks[at - 1]
    head = data[:3].ljust(3, b"\0") if random.random() < 0.9 else random.randbytes(3)
    return head + b"".join(blocks)

"""A whole store directory, as damage may leave it, opened and looked at.

Input: steps that change a good store's files: kind (of `_change`), file (one byte), a number (4
bytes), a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from random import Random

import crc32c

from applier.store import layout
from applier.store.core import StoreCore, open_store
from logship import wal
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from tests.fuzz.errors import check_refusal
from tests.fuzz.target import Input, MutateBytes, chunk
from tests.support.fake_disk import FakeDisk
from tests.support.wal_factory import WalFactory

SEGMENT_BYTES = 32 * 1024
wal.MIN_SEGMENT_BYTES = SEGMENT_BYTES  # PostgreSQL's smallest would make a run 30 times as long
LINE = wal.WalLine(7301234567890123456, 17, SEGMENT_BYTES)
START = 16 * SEGMENT_BYTES
FORK = START + 2 * SEGMENT_BYTES + 12_000
HISTORY = f"1\t{Lsn(FORK)}\tno recovery target specified\n".encode()
FACTORY = WalFactory(LINE, {2: wal.parse_history(2, HISTORY)})
DIRECTORY = Path("/store")
CODES = (
    Code.STORE_DAMAGED,
    Code.SYSTEM_IDENTIFIER_MISMATCH,
    Code.MAJOR_MISMATCH,
    Code.SEGMENT_SIZE_MISMATCH,
)
PATCH, SIZE, REMOVE, RENAME, COPY, WRITE_SLOT, WHOLE = range(7)
SHORT_RUNS = 3000
MAX_BYTES = 1024

Files = dict[str, bytes]


@lru_cache
def good_store() -> Files:
    """Two timelines, the second's first segment begun."""
    disk = FakeDisk()
    core = open_store(disk, DIRECTORY, LINE, keep_free_bytes=0)
    core.begin_chain(1, START + 40, seed_id="s1", started_at=1e9)
    _write(core, 1, START, FORK)
    core.add_history(2, HISTORY)
    _write(core, 2, FORK - FORK % SEGMENT_BYTES, FORK + SEGMENT_BYTES + 9000)
    core.close()
    return {name: disk.contents(DIRECTORY / name) for name in disk.names(DIRECTORY)}


def _write(core: StoreCore, timeline: int, start: int, end: int) -> None:
    while start < end:
        stop = min(end, start - start % SEGMENT_BYTES + SEGMENT_BYTES)
        core.write(timeline, start, FACTORY.wal(timeline, start, stop))
        core.hardened(core.segments.run_flush(core.segments.prepare_flush()))
        start = stop


def run(data: bytes) -> bool:
    files = dict(good_store())
    steps = Input(data)
    while steps and files:
        _change(files, steps)
    disk = FakeDisk(1)
    for name, content in files.items():
        disk.put(DIRECTORY / name, content)
    looked = _open(disk, read_only=True)
    assert {name: disk.contents(DIRECTORY / name) for name in disk.names(DIRECTORY)} == files
    opened = _open(disk, read_only=False)
    assert (looked is None) == (opened is None)
    if looked is None or opened is None:
        return False
    found = _held(opened)
    assert _held(looked) == found
    looked.close()
    opened.close()
    again = _open(disk, read_only=False)
    assert again is not None
    assert _held(again) == found
    _go_on(again)
    again.close()
    return True


def _open(disk: FakeDisk, *, read_only: bool) -> StoreCore | None:
    try:
        return open_store(disk, DIRECTORY, LINE, keep_free_bytes=0, read_only=read_only)
    except LogshipError as error:
        check_refusal(error, *CODES)
        return None


def _held(core: StoreCore) -> list[tuple[object, ...]]:
    """The positions, and every byte that is served, which must pass the page checks."""
    positions = core.positions
    if positions is None:
        return []
    assert positions.durable == positions.written
    held: list[tuple[object, ...]] = [(positions.start, positions.written)]
    for timeline, (start, end) in sorted(positions.extents.items()):
        at = start
        while at < end:
            data = core.read(timeline, at, end - at)
            assert data, (timeline, at, end)
            held.append((timeline, at, data))
            at = Lsn(at + len(data))
    return held


def _go_on(core: StoreCore) -> None:
    """What was recovered can be written on."""
    if core.positions is None:
        return
    timeline, lsn = core.positions.written
    end = min(lsn + 500, lsn - lsn % SEGMENT_BYTES + SEGMENT_BYTES)
    try:
        core.write(timeline, lsn, FACTORY.wal(timeline, lsn, end))
    except LogshipError as error:
        # A slot whose checksum the target put right may vouch for bytes that no primary wrote.
        check_refusal(error, Code.BAD_WAL_PAGE, Code.WAL_CONFLICT)
        return
    core.hardened(core.segments.run_flush(core.segments.prepare_flush()))
    assert core.positions.durable == (timeline, end)


def _change(files: Files, steps: Input) -> None:
    kind, number = steps.number(), 0
    names = sorted(files)
    name = names[steps.number() % len(names)]
    number, content = steps.number(4), steps.chunk()
    old = files[name]
    if kind == PATCH:
        at = number % (len(old) + 1)
        files[name] = old[:at] + content + old[at + len(content) :]
    elif kind == SIZE:
        size = number % (2 * SEGMENT_BYTES)
        files[name] = old[:size].ljust(size, b"\0")
    elif kind == REMOVE:
        del files[name]
    elif kind == RENAME:
        files[_name(number, content)] = files.pop(name)
    elif kind == COPY:
        files[_name(number, content)] = old
    elif kind == WRITE_SLOT:
        _write_slot(files, name, number)
    elif kind == WHOLE:
        files[name] = content


def _name(number: int, content: bytes) -> str:
    """A name that recovery looks at, or any."""
    lsn = START + (number >> 8) % 8 * SEGMENT_BYTES
    segment = wal.segment_name(1 + (number >> 16) % 4, lsn, SEGMENT_BYTES)
    odd = content.decode("latin-1").translate({0: "0", 47: "-"}) or "odd"
    names = (
        segment,
        segment + layout.PARTIAL_SUFFIX,
        wal.history_name(1 + (number >> 16) % 4),
        "spare",
        "chains.json",
        "chains.json.new",
        odd,
    )
    return names[number % len(names)]


def _write_slot(files: Files, name: str, number: int) -> None:
    """A slot with right checksums in the file's tail: (end, sequence, which) from `number`."""
    stem = name.removesuffix(layout.PARTIAL_SUFFIX)
    try:
        timeline, lsn = wal.parse_segment_name(stem, SEGMENT_BYTES)
    except ValueError:
        return
    end = lsn + (number >> 8) % (SEGMENT_BYTES + 1)
    content = files[name].ljust(SEGMENT_BYTES + layout.TAIL_BYTES, b"\0")
    claim = layout.Slot(timeline, lsn, Lsn(end), number >> 24, crc32c.crc32c(content[: end - lsn]))
    at = SEGMENT_BYTES + (number & 1) * layout.SLOT_BYTES
    slot = layout.encode_slot(claim, LINE)
    files[name] = content[:at] + slot + content[at + len(slot) :]


def _step(kind: int, file: int, number: int = 0, content: bytes = b"") -> bytes:
    return bytes([kind, file]) + number.to_bytes(4, "little") + chunk(content)


def seeds() -> Iterator[bytes]:
    yield b""
    names = sorted(good_store())
    for file, name in enumerate(names):
        if name.endswith(layout.PARTIAL_SUFFIX):
            yield _step(WRITE_SLOT, file, 0xFF_04_00_00)
            yield _step(PATCH, file, 9100, b"torn") + _step(PATCH, file, 30_000, b"left over")
    yield _step(COPY, 0, 3) + _step(COPY, 1, 6, b"odd")


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    step = _step(
        random.randrange(7), random.randrange(8), random.getrandbits(32), random.randbytes(3)
    )
    if len(data) + len(step) > max_bytes or random.random() < 0.2:
        return step
    return data + step if random.random() < 0.5 else step + data

"""Timeline histories, and the names of WAL files.

Input: timeline (4 bytes), content.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from random import Random

from logship import wal
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from tests.fuzz.errors import check_refusal
from tests.fuzz.mutation import splice
from tests.fuzz.target import Input, MutateBytes

SHORT_RUNS = 30_000


def run(data: bytes) -> bool:
    fields = Input(data)
    timeline, content = fields.number(4), fields.rest()
    _check_names(content.decode("utf-8", "replace"))
    try:
        history = wal.parse_history(timeline, content)
    except LogshipError as error:
        check_refusal(error, Code.BAD_HISTORY)
        return False
    line = [entry.timeline for entry in history.ancestors]
    ends = [entry.end_lsn for entry in history.ancestors]
    assert line == sorted(set(line))
    assert ends == sorted(ends)
    assert all(0 < each < timeline for each in line)
    assert all(0 <= end < 1 << 64 for end in ends)
    for own, end in history.ancestors:
        assert history.end_of(own) == end
        assert history.successor_of(own) in (*line, timeline)
    assert history.timeline_at((1 << 64) - 1) == timeline
    written = "".join(f"{each.timeline}\t{each.end_lsn}\treason\n" for each in history.ancestors)
    assert wal.parse_history(timeline, written.encode()) == history
    return True


def _check_names(name: str) -> None:
    for segment_bytes in (1 << 20, 1 << 24, 1 << 30):
        try:
            timeline, lsn = wal.parse_segment_name(name, segment_bytes)
        except ValueError:
            continue
        assert wal.segment_name(timeline, lsn, segment_bytes) == name
        assert 0 < timeline < 1 << 32
        assert 0 <= lsn < 1 << 64
        assert lsn % segment_bytes == 0
    with contextlib.suppress(ValueError):
        assert wal.history_name(wal.parse_history_name(name)) == name
    with contextlib.suppress(ValueError):
        assert Lsn.parse(str(Lsn.parse(name))) == Lsn.parse(name)


def _input(timeline: int, content: bytes) -> bytes:
    return timeline.to_bytes(4, "little") + content


def seeds() -> Iterator[bytes]:
    yield _input(2, b"1\t0/3000148\tno recovery target specified\n")
    yield _input(
        7,
        b"1\t0/3000148\tno recovery target specified\n\n# a comment\n"
        b'2\t0/3000148\tat restore point "caf\xc3\xa9"\n'
        b"5\t16/B374D848\tbefore transaction 740 at 2024-05-01 10:00:00+02\n",
    )
    # PostgreSQL writes names of restore points as they are, whatever control characters.
    yield _input(3, b'2\t0/3000148\tat restore point "a\x0bb\xe2\x80\xa8c\r"\n')
    yield _input(1, b"")
    yield _input(1, b"#00000002.history")


WORDS = (
    b"1", b"0", b"-1", b"4294967295", b"4294967296", b"\t", b"\n", b"#", b"0/0", b"1_0",
    b"FFFFFFFF/FFFFFFFF", b"\xd9\xa3", b"\xc2\xb2", b"\x0b", b"\x85", b"9" * 5000, b"\r",
)  # fmt: skip


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    return data[:4] + splice(data[4:], WORDS, random)

"""Small where the road is slow, soon where it is not."""

from __future__ import annotations

from logship.seal import Sealed
from shipper.compression import Compression, Effort

SLOW_ROAD_CHUNK = 10_000


def road_that_waits() -> tuple[Compression, float]:
    compression, now = Compression(enabled=True), 0.0
    for _ in range(40):  # each chunk waits for room for 9 of 10 seconds
        compression.sent(SLOW_ROAD_CHUNK, now + 1, now + 10)
        now += 10
    return compression, now


def test_it_is_thorough_only_while_a_slow_road_is_what_waits() -> None:
    assert Compression(enabled=True).next_chunk() is Effort.QUICK
    compression, now = road_that_waits()
    assert compression.next_chunk() is Effort.THOROUGH
    for _ in range(10):  # a third of the time: it stays so, lest it change with every chunk
        compression.sent(SLOW_ROAD_CHUNK, now + 2, now + 3)
        now += 3
    assert compression.next_chunk() is Effort.THOROUGH
    for _ in range(60):
        compression.sent(SLOW_ROAD_CHUNK, now + 1, now + 1)
        now += 1
    assert compression.next_chunk() is Effort.QUICK
    compression.sent(SLOW_ROAD_CHUNK, now, now)  # a clock that stands still decides nothing
    assert compression.next_chunk() is Effort.QUICK


def test_a_fast_road_that_is_full_means_a_busy_far_end() -> None:
    compression, now = road_that_waits()
    for _ in range(60):
        compression.sent(1_000_000, now + 0.001, now + 0.01)  # 100 MB/s, waiting all the time
        now += 0.01
    assert compression.next_chunk() is Effort.QUICK


def test_what_does_not_shrink_is_left_alone_for_a_while() -> None:
    compression = Compression(enabled=True)
    for _ in range(4):
        assert compression.next_chunk() is not Effort.NONE
        compression.saw(Sealed("none", 0, 100, b"x" * 100))
    efforts = [compression.next_chunk() for _ in range(32)]
    assert efforts == [Effort.NONE] * 32
    assert compression.next_chunk() is not Effort.NONE
    compression.saw(Sealed("zstd", 0, 100, b"x" * 50))
    assert compression.next_chunk() is not Effort.NONE


def test_nothing_is_compressed_where_it_is_switched_off() -> None:
    assert Compression(enabled=False).next_chunk() is Effort.NONE

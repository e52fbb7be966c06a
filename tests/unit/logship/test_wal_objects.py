"""WAL objects: what is packed comes back, and nothing else is believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logship.bucket.keys import Place, SeedName
from logship.bucket.wal_objects import Head, Marker, metadata_of, pack, read_head, unpack
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.seal import seal

SEGMENT_BYTES = 1 << 20
PLACE = Place(1, Lsn(3 * SEGMENT_BYTES))


def _head(raw_bytes: int, checksum: int) -> Head:
    return Head(timeline=1, start_lsn=PLACE.lsn, raw_bytes=raw_bytes, crc32c=checksum)


@given(st.lists(st.binary(min_size=1, max_size=2000).map(lambda b: b * 60), min_size=1, max_size=6))
def test_spans_come_back_as_one(spans: list[bytes]) -> None:
    body, raw_bytes, checksum = pack(seal(each) for each in spans)
    head = read_head(metadata_of(_head(raw_bytes, checksum)), PLACE, "it")
    assert unpack(body, head, SEGMENT_BYTES, "it") == b"".join(spans)
    assert head.following(PLACE, SEGMENT_BYTES) == Place(1, Lsn(PLACE.lsn + raw_bytes))


def test_an_empty_span_is_no_wal() -> None:
    with pytest.raises(LogshipError) as caught:
        read_head(metadata_of(_head(0, 0)), PLACE, "it")
    assert caught.value.code is Code.OBJECT_DAMAGED


@pytest.mark.parametrize(
    "metadata",
    [{}, {"logship": "nonsense"}, {"logship": "00000000 {}"}],
    ids=["absent", "no JSON", "another checksum"],
)
def test_other_metadata_is_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(LogshipError, match="its head can't be used"):
        read_head(metadata, PLACE, "it")


def test_an_object_of_another_place_is_refused() -> None:
    with pytest.raises(LogshipError, match="it is of 1:0/300000"):
        read_head(metadata_of(_head(5, 0)), Place(1, Lsn(7)), "it")


@pytest.mark.parametrize("change", [{"raw_bytes": 99}, {"raw_bytes": 101}, {"crc32c": 1}])
def test_bytes_that_are_not_the_announced_ones_are_refused(change: dict[str, int]) -> None:
    body, raw_bytes, checksum = pack([seal(bytes(100))])
    told = {"raw_bytes": raw_bytes, "crc32c": checksum} | change
    with pytest.raises(LogshipError) as caught:
        unpack(body, _head(told["raw_bytes"], told["crc32c"]), 1 << 20, "it")
    assert caught.value.code is Code.OBJECT_DAMAGED


def test_more_than_a_segment_is_never_unpacked() -> None:
    body, _, checksum = pack([seal(bytes(2 * SEGMENT_BYTES))])
    with pytest.raises(LogshipError, match="cross a segment"):
        unpack(body, _head(2 * SEGMENT_BYTES, checksum), SEGMENT_BYTES, "it")


@pytest.mark.parametrize(
    ("marker", "following"),
    [
        (Marker(kind="timeline", timeline=2), Place(2, PLACE.lsn)),
        (Marker(kind="timeline", timeline=2, lsn=SEGMENT_BYTES + 7), Place(2, Lsn(SEGMENT_BYTES))),
        (Marker(kind="gap", code="wal-removed", what="gone"), PLACE._replace(step=1)),
        (
            Marker(kind="seed", timeline=2, lsn=9 * SEGMENT_BYTES + 40, seed="s"),
            Place(2, Lsn(9 * SEGMENT_BYTES)),
        ),
    ],
)
def test_a_marker_says_where_to_look_next(marker: Marker, following: Place) -> None:
    head = Head(timeline=1, start_lsn=PLACE.lsn, marker=marker)
    again = read_head(metadata_of(head), PLACE, "it")
    assert again == head
    assert again.following(PLACE, SEGMENT_BYTES) == following


def test_a_new_timeline_goes_on_from_the_start_of_the_segment_of_its_switch_point() -> None:
    place = Place(1, Lsn(PLACE.lsn + 300))
    head = Head(timeline=1, start_lsn=place.lsn, marker=Marker(kind="timeline", timeline=2))
    assert head.following(place, SEGMENT_BYTES) == Place(2, PLACE.lsn)


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 9999))
def test_places_sort_as_positions_and_are_read_again(timeline: int, lsn: int, step: int) -> None:
    place = Place(timeline, Lsn(lsn), step)
    assert Place.parse(str(place)) == place
    assert str(Place(timeline, Lsn(lsn))) <= str(place)


@pytest.mark.parametrize(
    "text", ["", "1/2", "00000001/000000000000000G", "00000001/0000000000000000.0"]
)
def test_other_names_are_no_places(text: str) -> None:
    with pytest.raises(ValueError, match="not a place"):
        Place.parse(text)


def test_seed_names_are_read_again() -> None:
    name = SeedName(Lsn(0x1_0000_0028), "0a1b")
    assert SeedName.parse(str(name)) == name

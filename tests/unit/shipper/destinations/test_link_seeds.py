"""A seed on its way: what is kept, what is sent again, and when it is given up."""

from __future__ import annotations

import pytest

from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedChunk, SeedEnd
from shipper.destinations.link_seeds import LinkSeeds

BEGIN = SeedBegin(seed_id="s1", timeline=1, start_lsn=40, estimated_bytes=0)


def chunk(sequence: int, seed_id: str = "s1") -> SeedChunk:
    return SeedChunk(seed_id=seed_id, sequence=sequence, kind="data")


@pytest.fixture
def seeds() -> LinkSeeds:
    made = LinkSeeds()
    made.begin(BEGIN)
    for sequence in range(4):
        made.add(chunk(sequence), b"x" * 10)
    return made


def sequences(items: object) -> list[int]:
    assert isinstance(items, list)
    return [frame.sequence for frame, _ in items]


def test_a_hello_names_the_seed_that_is_held() -> None:
    seeds = LinkSeeds()
    assert seeds.seed_id == ""
    seeds.begin(BEGIN)
    assert seeds.seed_id == "s1"
    seeds.forget()
    assert seeds.seed_id == ""


def test_an_empty_payload_is_sent_as_none(seeds: LinkSeeds) -> None:
    assert seeds.add(chunk(4), b"") is None
    assert seeds.add(chunk(5), b"abc") == b"abc"
    assert seeds.add(SeedEnd(seed_id="s1", sequence=6, timeline=1, end_lsn=9), b"") is None


def test_what_was_acknowledged_is_not_kept(seeds: LinkSeeds) -> None:
    assert seeds.acked("s1", 2, resend=False) == []
    assert sequences(seeds.resume("s1", 2)) == [2, 3]
    assert seeds.resume("s1", 1) is None, "gone already"
    assert seeds.resume("", 0) is None, "its beginning is gone"


def test_what_is_asked_for_again_is_sent_again(seeds: LinkSeeds) -> None:
    assert sequences(seeds.acked("s1", 1, resend=True)) == [1, 2, 3]
    assert sequences(seeds.acked("s1", 3, resend=True)) == [3]


def test_an_applier_that_never_heard_of_it_gets_it_from_the_beginning(seeds: LinkSeeds) -> None:
    items = seeds.resume("", 0)
    assert items is not None
    assert items[0] == (BEGIN, None)
    assert sequences(items[1:]) == [0, 1, 2, 3]


@pytest.mark.parametrize(("sequence", "resend"), [(9, False), (9, True), (0, True)])
def test_an_ack_that_no_applier_would_send_is_no_crash(
    seeds: LinkSeeds, sequence: int, resend: bool
) -> None:
    seeds.acked("s1", 2, resend=False)
    assert seeds.acked("s1", sequence, resend=resend) is None


def test_acks_of_another_seed_change_nothing(seeds: LinkSeeds) -> None:
    assert seeds.acked("s0", 3, resend=True) == []
    assert sequences(seeds.resume("s1", 0)) == [0, 1, 2, 3]


def test_a_failed_seed_raises_until_a_new_one_begins(seeds: LinkSeeds) -> None:
    assert seeds.fail("no room") == "s1"
    assert seeds.fail("again") == "", "told once"
    with pytest.raises(LogshipError) as caught:
        _ = seeds.has_room
    assert (caught.value.code, caught.value.what) == (Code.SEED_FAILED, "no room")
    with pytest.raises(LogshipError):
        seeds.add(chunk(4), b"")
    seeds.begin(SeedBegin(seed_id="s2", timeline=1, start_lsn=40, estimated_bytes=0))
    assert seeds.has_room
    seeds.add(chunk(0, "s2"), b"x")


def test_without_a_seed_there_is_nothing_to_add_to() -> None:
    seeds = LinkSeeds()
    assert seeds.resume("", 0) == []
    assert seeds.fail("nothing") == ""
    with pytest.raises(LogshipError) as caught:
        seeds.add(chunk(0), b"")
    assert caught.value.code is Code.SEED_FAILED

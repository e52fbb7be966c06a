"""What is remembered of files that were given out, and when a file is taken."""

from __future__ import annotations

import pytest

from shipper.sources.archive.memory import Given, Look, Memory
from shipper.sources.archive.settling import (
    PADDED_SETTLE_SECONDS,
    SETTLE_SECONDS,
    Settling,
)


def given_file(number: int) -> Given:
    return Given(number, 1 << 20, Look(1 << 20, number, number, number))


def test_what_is_remembered_reads_back() -> None:
    memory = Memory()
    memory.note("a", given_file(1))
    assert memory.changed
    again = Memory.decode(memory.encode())
    assert not memory.changed
    assert again.get("a") == given_file(1)
    assert not again.changed


def test_the_same_again_is_no_change() -> None:
    memory = Memory()
    memory.note("a", given_file(1))
    memory.encode()
    memory.note("a", given_file(1))
    assert not memory.changed


def test_it_is_bounded_and_forgets_the_oldest() -> None:
    memory = Memory(limit=3)
    for number in range(5):
        memory.note(str(number), given_file(number))
    assert memory.names() == ["2", "3", "4"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format":2,"given":{}}', b'{"format":1,"given":{"a":1}}']
)
def test_a_damaged_document_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Memory.decode(content)


LOOK = Look(1 << 20, 0, int(100e9), 7)


def test_a_file_that_was_closed_is_taken_at_once() -> None:
    settling = Settling()
    settling.noticed_whole("a")
    assert settling.wait_seconds("a", LOOK, padded=True, now=0, clock=100) == 0


def test_one_that_nobody_touched_for_a_while_is_taken() -> None:
    settling = Settling()
    wait = settling.wait_seconds("a", LOOK, padded=False, now=0, clock=100.25)
    assert wait == pytest.approx(SETTLE_SECONDS - 0.25)
    assert settling.wait_seconds("a", LOOK, padded=False, now=wait, clock=100.25 + wait) == 0


def test_one_that_ends_in_zeros_waits_longer() -> None:
    wait = Settling().wait_seconds("a", LOOK, padded=True, now=0, clock=101)
    assert wait == pytest.approx(PADDED_SETTLE_SECONDS - 1)


def test_each_change_begins_the_wait_anew() -> None:
    settling = Settling()
    settling.wait_seconds("a", LOOK, padded=False, now=0, clock=100)
    changed = LOOK._replace(mtime_ns=1, ctime_ns=int(100.9e9))
    wait = settling.wait_seconds("a", changed, padded=False, now=0.9, clock=100.9)
    assert wait == pytest.approx(SETTLE_SECONDS)


def test_a_file_system_whose_clock_is_ahead_does_not_stop_it() -> None:
    settling = Settling()
    ahead = LOOK._replace(ctime_ns=int(9999e9))
    assert settling.wait_seconds("a", ahead, padded=False, now=0, clock=100) == SETTLE_SECONDS
    assert settling.wait_seconds("a", ahead, padded=False, now=1.5, clock=101.5) == 0


def test_one_that_is_made_again_is_not_what_was_closed() -> None:
    settling = Settling()
    settling.noticed_whole("a")
    settling.forget("a")
    assert settling.wait_seconds("a", LOOK, padded=False, now=0, clock=100) == SETTLE_SECONDS

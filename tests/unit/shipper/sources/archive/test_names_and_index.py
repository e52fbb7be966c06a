"""What names in an outbox mean, and an index that agrees with a plain set of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logship.lsn import Lsn
from shipper.sources.archive.index import Index
from shipper.sources.archive.names import (
    BackupMarker,
    Partial,
    Segment,
    TimelineHistory,
    is_passing,
    name_of,
    parse,
)

MIB = 1 << 20
SIZE = 16 * MIB


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("000000010000000000000003", Segment(1, Lsn(3 * SIZE))),
        ("0000000A00000001000000FF", Segment(10, Lsn((1 << 32) + 255 * SIZE))),
        ("000000010000000000000003.partial", Partial(1, Lsn(3 * SIZE))),
        ("00000002.history", TimelineHistory(2)),
        ("000000010000000000000003.00000028.backup", BackupMarker(1, Lsn(3 * SIZE + 0x28))),
    ],
)
def test_what_archivers_give(name: str, means: object) -> None:
    assert parse(name, SIZE) == means


@pytest.mark.parametrize(
    "name",
    [
        "",
        "000000010000000000000003.gz",
        "000000010000000000000003.zst",
        "000000010000000000000003.partial.gz",
        "000000010000000000000100",  # no such segment with 16 MiB
        "000000000000000000000003",  # no timeline 0
        "00000001.history",  # the first has none
        "00000002.history.tmp",
        "00000001000000000000000g",
        "00000001000000000000000a",  # PostgreSQL writes capitals
        "000000010000000000000003.FFFFFFFF.backup",
        "archtemp.000000010000000000000003.4711.1700000000",
        ".000000010000000000000003.Xy12",
        "lost+found",
    ],
)
def test_what_they_do_not(name: str) -> None:
    assert parse(name, SIZE) is None


def test_names_of_files_being_written_are_nothing_to_wonder_about() -> None:
    assert is_passing("archtemp.000000010000000000000003.4711.1700000000")
    assert is_passing(".000000010000000000000003.Xy12")
    assert not is_passing("000000010000000000000003.gz")


timelines = st.integers(1, 5)
starts = st.integers(0, 600).map(lambda number: Lsn(number * MIB))
files = st.one_of(
    st.builds(Segment, timelines, starts),
    st.builds(Partial, timelines, starts),
    st.builds(TimelineHistory, st.integers(2, 6)),
)
names = files.map(lambda file: name_of(file, MIB)) | st.sampled_from(["README", "x.gz"])


@given(files)
def test_a_name_reads_back(file: Segment | Partial | TimelineHistory) -> None:
    assert parse(name_of(file, MIB), MIB) == file


@given(st.lists(st.tuples(st.booleans(), names)), st.lists(names))
def test_the_index_holds_what_came_and_did_not_go(
    changes: list[tuple[bool, str]], listed: list[str]
) -> None:
    index, model = Index(MIB), set(listed)
    index.replace(listed)
    for came, name in changes:
        if came:
            index.add(name)
            model.add(name)
        else:
            index.discard(name)
            model.discard(name)
    for name in {name for _, name in changes} | set(listed):
        assert (name in index) == (name in model)
    known = {name: parse(name, MIB) for name in model}
    assert len(index) == sum(file is not None for file in known.values())
    assert index.strangers == {name for name, file in known.items() if file is None}
    for timeline in range(1, 6):
        mine = sorted(
            file.start_lsn
            for file in known.values()
            if isinstance(file, Segment) and file.timeline == timeline
        )
        assert index.segments.up_to(timeline, 300 * MIB) == [s for s in mine if s <= 300 * MIB]
        assert index.segments.last(timeline) == (mine[-1] if mine else None)
        assert index.end_of(timeline) == (mine[-1] + MIB if mine else None)
    seen = [file.timeline for file in known.values() if file is not None]
    assert index.newest_timeline() == max(seen, default=0)

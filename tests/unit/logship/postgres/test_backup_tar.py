"""The parser takes what PostgreSQL writes and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logship.errors import Code, LogshipError
from logship.postgres.backup_tar import Content, Entry, Kind, TarParser
from tests.unit.applier.receivers.seed.archives import entry, header, link_entry

FILES = st.dictionaries(
    st.from_regex(r"[a-z0-9_]{1,8}(/[a-z0-9_]{1,8}){0,2}", fullmatch=True),
    st.binary(max_size=2000),
    max_size=8,
)


def parse(archive: bytes, *, name: str = "", step: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    parser = TarParser(name)
    found: list[tuple[Entry, bytes]] = []
    for start in range(0, len(archive), step):
        for event in parser.feed(archive[start : start + step]):
            if isinstance(event, Entry):
                found.append((event, b""))
            else:
                last, content = found[-1]
                found[-1] = (last, content + bytes(event.data))
                assert event.is_last == (len(found[-1][1]) == last.size_bytes)
    parser.finish()
    return found


def refusal(archive: bytes, *, name: str = "") -> str:
    with pytest.raises(LogshipError) as caught:
        parse(archive, name=name)
    assert caught.value.code is Code.BAD_TAR
    return caught.value.what


@given(FILES, st.integers(1, 1500), st.integers(0, 4))
def test_reads_the_same_files_whatever_the_pieces(
    files: dict[str, bytes], step: int, zero_blocks: int
) -> None:
    archive = b"".join(entry(name, content) for name, content in files.items())
    found = parse(archive + bytes(512 * zero_blocks), step=step)
    assert {each.path.decode(): content for each, content in found} == files


def test_takes_directories_tablespace_links_and_the_dotted_pg_wal_of_postgresql() -> None:
    found = parse(
        entry("pg_tblspc/")
        + link_entry("pg_tblspc/16385/", "/mnt/fast")
        + entry("./pg_wal/archive_status/")
    )
    assert [each for each, _ in found] == [
        Entry(Kind.DIRECTORY, b"pg_tblspc", 0, b""),
        Entry(Kind.SYMLINK, b"pg_tblspc/16385", 0, b"/mnt/fast"),
        Entry(Kind.DIRECTORY, b"pg_wal/archive_status", 0, b""),
    ]


def test_reads_a_size_in_base_256() -> None:
    size_field = b"\x80" + (5).to_bytes(11, "big")
    archive = header(b"big", size_field=size_field) + b"hello" + bytes(507)
    assert parse(archive)[0][1] == b"hello"


@pytest.mark.parametrize(
    "name",
    ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", "a//b", "./", ".", "a/./b", "././x"],
)
@pytest.mark.parametrize("kind", [b"0", b"5"])
def test_refuses_names_that_are_not_plainly_below(name: str, kind: bytes) -> None:
    assert "not one below" in refusal(header(name.encode(), kind=kind))


def test_refuses_a_file_that_ends_in_a_slash() -> None:
    assert "not one below" in refusal(header(b"a/"))


@pytest.mark.parametrize("name", [b"x" * 100, b"a\x00b"])
def test_refuses_names_without_an_end_or_with_a_hidden_rest(name: bytes) -> None:
    assert "not ended by zero bytes" in refusal(header(name))


@pytest.mark.parametrize("kind", [b"1", b"3", b"4", b"6", b"7", b"L", b"x", b"g", b"\x00"])
def test_refuses_special_files_and_extensions(kind: bytes) -> None:
    assert "no file, directory or symbolic link" in refusal(header(b"a", kind=kind))


@pytest.mark.parametrize(
    "name", ["pg_wal", "pg_tblspc/x", "pg_tblspc/1/2", "pg_tblspc/0", "pg_tblspc/4294967296", "a"]
)
def test_refuses_links_that_are_not_a_tablespaces(name: str) -> None:
    assert "not a tablespace's" in refusal(link_entry(name, "/mnt"))


def test_refuses_links_in_a_tablespaces_own_archive() -> None:
    assert "not a tablespace's" in refusal(link_entry("pg_tblspc/16385", "/mnt"), name="16385")


@pytest.mark.parametrize(
    "size_field",
    [b"\x80" + b"\xff" * 11, b"\xff" * 12, b"77777777777x", b"            ", b"-0000000001 "],
)
def test_refuses_sizes_that_lie_or_are_none(size_field: bytes) -> None:
    refusal(header(b"a", size_field=size_field))


def test_refuses_directories_with_contents_and_files_with_targets() -> None:
    assert "is not a file but has" in refusal(header(b"a", 5, kind=b"5"))
    assert "is not a link but has" in refusal(header(b"a", link=b"/etc"))


def test_refuses_a_header_whose_checksum_or_format_is_wrong() -> None:
    assert "does not match its checksum" in refusal(header(b"a", checksum=1))
    flipped = bytearray(header(b"abc"))
    flipped[0] ^= 1
    assert "does not match its checksum" in refusal(bytes(flipped))


@pytest.mark.parametrize("cut", [1, 511, 513, 600])
def test_refuses_an_archive_that_stops_early(cut: int) -> None:
    assert "in the middle" in refusal(entry("a", b"x" * 300)[: 1024 - cut])


def test_refuses_entries_after_the_end_and_everything_after_an_error() -> None:
    assert "follows the zero block" in refusal(bytes(1024) + entry("a", b"x"))
    parser = TarParser("")
    for _ in range(2):
        with pytest.raises(LogshipError):
            list(parser.feed(header(b"../x")))
    with pytest.raises(LogshipError):
        parser.finish()


@settings(max_examples=300)
@given(st.data())
def test_any_bytes_give_events_or_bad_tar_and_never_a_name_that_leads_out(
    data: st.DataObject,
) -> None:
    archive = bytearray(
        b"".join(
            data.draw(
                st.lists(
                    st.one_of(
                        st.binary(max_size=700),
                        st.builds(header, st.binary(max_size=120), st.integers(0, 900)),
                        st.builds(
                            header,
                            st.sampled_from([b"../x", b"a/", b"pg_tblspc/7", b"/a", b"b"]),
                            st.just(0),
                            st.sampled_from([b"0", b"2", b"5", b"1"]),
                            st.binary(max_size=99),
                        ),
                    ),
                    max_size=6,
                )
            )
        )
    )
    parser = TarParser("")
    step = data.draw(st.integers(1, 1024))
    try:
        for start in range(0, len(archive), step):
            for event in parser.feed(bytes(archive[start : start + step])):
                if isinstance(event, Content):
                    assert len(event.data) <= step
                else:
                    assert not event.path.startswith(b"/")
                    assert not {b"", b".", b".."} & set(event.path.split(b"/"))
        parser.finish()
    except LogshipError as error:
        assert error.code is Code.BAD_TAR

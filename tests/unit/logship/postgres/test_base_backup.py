"""BASE_BACKUP's dialects and messages, without a server."""

from __future__ import annotations

import pytest

from logship.errors import Code, LogshipError
from logship.postgres.base_backup import (
    ArchiveStart,
    CopyPerArchiveReader,
    Data,
    ManifestStart,
    OneCopyReader,
    Progress,
    Tablespace,
    backup_command,
    read_header,
    read_position,
)


def test_each_server_gets_its_dialect() -> None:
    assert backup_command(140023, "it's", fast=True, max_rate_kb=None) == (
        "BASE_BACKUP LABEL 'it''s' PROGRESS NOWAIT FAST MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
    )
    assert backup_command(150000, "it's", fast=False, max_rate_kb=512) == (
        "BASE_BACKUP (LABEL 'it''s', PROGRESS true, WAIT false, WAL false, CHECKPOINT 'spread', "
        "MAX_RATE 512, TABLESPACE_MAP false, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')"
    )


def test_one_copy_is_read_by_its_type_bytes() -> None:
    reader = OneCopyReader()
    messages = [
        b"n16384.tar\0/srv/space\0",
        b"dbytes",
        b"p" + (77).to_bytes(8, "big"),
        b"nbase.tar\0\0",
        b"m",
        b"d{}",
    ]
    events = [event for message in messages for event in reader.read(memoryview(message))]
    assert events == [
        ArchiveStart("16384"),
        Data(memoryview(b"bytes")),
        Progress(77),
        ArchiveStart(""),
        ManifestStart(),
        Data(memoryview(b"{}")),
    ]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"x",
        b"p12",
        b"nbase.tar.gz\0\0",
        b"n../x.tar\0\0",
        b"n\xff.tar\0",
        b"n9999999999.tar\0",
    ],
)
def test_strange_messages_are_refused(message: bytes) -> None:
    with pytest.raises(LogshipError) as caught:
        list(OneCopyReader().read(memoryview(message)))
    assert caught.value.code is Code.SEED_FAILED


def test_a_copy_for_each_archive_comes_in_the_headers_order() -> None:
    tablespaces, archives, estimated = read_header(
        [(b"16384", b"/srv/space", b"10"), (None, None, b"20")]
    )
    assert tablespaces == (Tablespace(16384, "/srv/space", 10),)
    assert estimated == 30 * 1024
    reader = CopyPerArchiveReader(archives)
    assert [reader.start(), reader.start(), reader.start()] == [
        ArchiveStart("16384"),
        ArchiveStart(""),
        ManifestStart(),
    ]
    with pytest.raises(LogshipError):
        reader.start()


def test_progress_is_counted_where_the_server_tells_none() -> None:
    reader = CopyPerArchiveReader([""])
    reader.start()
    chunk = memoryview(bytes(5 << 20))
    events = [event for _ in range(2) for event in reader.read(chunk)]
    assert [event for event in events if isinstance(event, Progress)] == [Progress(10 << 20)]


@pytest.mark.parametrize("rows", [[], [(b"0/1",)], [(None, b"1")], [(b"x", b"1")]])
def test_an_odd_position_is_refused(rows: list[tuple[bytes | None, ...]]) -> None:
    with pytest.raises(LogshipError):
        read_position(rows)


def test_a_location_that_is_no_utf8_can_be_sent_on() -> None:
    (tablespace,), _, _ = read_header([(b"16384", b"/srv/caf\xe9", b"1"), (None, None, b"1")])
    assert tablespace.location == "/srv/caf\\xe9"
    tablespace.location.encode("utf-8")

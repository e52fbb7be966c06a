from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from applier.walserver.codec import SqlError
from applier.walserver.commands import (
    Command,
    Empty,
    IdentifySystem,
    ReadReplicationSlot,
    Show,
    StartReplication,
    TimelineHistory,
    parse_command,
)
from logship.lsn import Lsn

START = Lsn.parse("16/B374D848")


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("IDENTIFY_SYSTEM", IdentifySystem()),
        ("  identify_system ;\n", IdentifySystem()),
        ("TIMELINE_HISTORY 4294967295", TimelineHistory(4294967295)),
        ("START_REPLICATION 16/B374D848", StartReplication(START, None, None)),
        ("START_REPLICATION 16/B374D848 TIMELINE 3", StartReplication(START, 3, None)),
        (
            'START_REPLICATION SLOT "a ""b""" 16/B374D848 TIMELINE 3',
            StartReplication(START, 3, 'a "b"'),
        ),
        ("START_REPLICATION SLOT S PHYSICAL 16/B374D848", StartReplication(START, None, "s")),
        ("START_REPLICATION PHYSICAL 0/0", StartReplication(Lsn(0), None, None)),
        ("SHOW wal_segment_size", Show("wal_segment_size")),
        ("SHOW logship.x", Show("logship.x")),
        ('READ_REPLICATION_SLOT "s"', ReadReplicationSlot("s")),
        ("", Empty()),
        (" ; ", Empty()),
    ],
)
def test_what_walreceivers_and_pg_receivewal_send_is_understood(
    text: str, command: Command
) -> None:
    assert parse_command(text) == command


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("IDENTIFY_SYSTEMS", "42601"),
        ("IDENTIFY_SYSTEM IDENTIFY_SYSTEM", "42601"),
        ("TIMELINE_HISTORY", "42601"),
        ("TIMELINE_HISTORY 0", "42601"),
        ("TIMELINE_HISTORY 4294967296", "42601"),
        ("TIMELINE_HISTORY 99999999999999999999999999999", "42601"),
        ("START_REPLICATION", "42601"),
        ("START_REPLICATION 1", "42601"),
        ("START_REPLICATION 123456789/0", "42601"),
        ("START_REPLICATION 0/0 TIMELINE", "42601"),
        ("START_REPLICATION 0/0 TIMELINE 1 1", "42601"),
        ('START_REPLICATION SLOT "s 0/0', "42601"),
        ("SHOW wal_segment_size.", "42601"),
        ("'text'", "42601"),
        ("%&", "42601"),
        ('START_REPLICATION SLOT "s" LOGICAL 0/0', "0A000"),
        ('CREATE_REPLICATION_SLOT "s" TEMPORARY PHYSICAL RESERVE_WAL', "0A000"),
        ("BASE_BACKUP ( LABEL 'x' )", "0A000"),
        ("SELECT pg_catalog.set_config('search_path', '', false);", "0A000"),
        ("select 1 + 1", "0A000"),
    ],
)
def test_anything_else_is_refused_by_name(text: str, sqlstate: str) -> None:
    with pytest.raises(SqlError) as caught:
        parse_command(text)
    assert caught.value.sqlstate == sqlstate
    assert not caught.value.fatal


WORDS = st.sampled_from(
    ["START_REPLICATION", "SLOT", '"', '"s"', "'", "PHYSICAL", "0/0", "F/F", "TIMELINE", "1", "-1",
     "SHOW", ".", ";", "(", "a", "\n", "é", "TIMELINE_HISTORY"]
)  # fmt: skip


@given(text=st.one_of(st.text(max_size=300), st.lists(WORDS, max_size=12).map(" ".join)))
@example(text='"' * 60_000)
@example(text="SHOW a" + ".a" * 30_000)
def test_any_text_gives_a_command_or_an_error(text: str) -> None:
    try:
        parse_command(text)
    except SqlError as error:
        assert error.sqlstate in ("42601", "0A000")

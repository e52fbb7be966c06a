"""Query strings to the WAL server."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from applier.walserver import commands
from applier.walserver.codec import SqlError
from applier.walserver.commands import parse_command
from tests.fuzz.mutation import splice
from tests.fuzz.target import MutateBytes, check_message

SHORT_RUNS = 30_000


def run(data: bytes) -> bool:
    text = data.decode("utf-8", "replace")
    try:
        command = parse_command(text)
    except SqlError as error:
        assert error.sqlstate in ("42601", "0A000")
        assert not error.fatal
        check_message(error.message)
        return False
    assert parse_command(_written(command)) == command
    if isinstance(command, commands.StartReplication):
        assert 0 <= command.start < 1 << 64
        assert command.timeline is None or 0 < command.timeline < 1 << 32
    if isinstance(command, commands.TimelineHistory):
        assert 0 < command.timeline < 1 << 32
    return True


def _written(command: commands.Command) -> str:
    match command:
        case commands.IdentifySystem():
            return "IDENTIFY_SYSTEM"
        case commands.TimelineHistory(timeline):
            return f"TIMELINE_HISTORY {timeline}"
        case commands.StartReplication(start, timeline, slot):
            named = "" if slot is None else f" SLOT {_quoted(slot)}"
            of = "" if timeline is None else f" TIMELINE {timeline}"
            return f"START_REPLICATION{named} PHYSICAL {start}{of}"
        case commands.ReadReplicationSlot(slot):
            return f"READ_REPLICATION_SLOT {_quoted(slot)}"
        case commands.Show(name):
            return f"SHOW {_quoted(name)}"
    return ""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def seeds() -> Iterator[bytes]:
    yield from (
        b"IDENTIFY_SYSTEM",
        b"identify_system;",
        b"TIMELINE_HISTORY 2",
        b"START_REPLICATION 0/3000000",
        b'START_REPLICATION SLOT "standby" 16/B374D848 TIMELINE 7',
        b"START_REPLICATION SLOT a_slot PHYSICAL 0/0 TIMELINE 4294967295 ;",
        b'READ_REPLICATION_SLOT "a ""b"" c"',
        b"SHOW data_directory_mode",
        b"SHOW a.b",
        b"",
        b" \t\n",
    )


WORDS = (
    b"START_REPLICATION", b"SLOT", b"LOGICAL", b"PHYSICAL", b"TIMELINE", b"SHOW", b"SELECT",
    b"BASE_BACKUP", b"0/0", b"FFFFFFFF/FFFFFFFF", b"4294967296", b'"', b'""', b"'", b"''",
    b";", b"(", b",", b".", b"\xc5\xbf", b"\xc4\xb0", b"\xd9\xa3", b" ", b"$", b"_",
)  # fmt: skip


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    return splice(data, WORDS, random)

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from applier.walserver.codec import MAX_QUERY_BYTES, PROTOCOL_3_2, SqlError
from applier.walserver.replication import WalSender
from applier.walserver.session import (
    OUTPUT_LIMIT_BYTES,
    STARTUP_TIMEOUT_SECONDS,
    Client,
    Role,
    Session,
)
from tests.unit.applier.walserver import transcript
from tests.unit.applier.walserver.memory_source import MemorySource
from tests.unit.applier.walserver.transcript import STANDBY, answers, query, startup

SEGMENT = 1 << 20


def a_source() -> MemorySource:
    source = MemorySource(segment_bytes=SEGMENT)
    source.append(1, SEGMENT, b"1" * 1000)
    return source


def a_session(source: MemorySource | None = None, now: float = 0) -> Session:
    held = source or a_source()

    def open_role(client: Client) -> Role:
        if client.user != "orders":
            raise SqlError("28000", f"{client.user} is not served", fatal=True)
        return WalSender(held, "17.9", wall_clock=lambda: 1_000_000_000.0)

    return Session(open_role, process_id=7, secret=b"s" * 32, now=now)


def started(source: MemorySource | None = None) -> Session:
    session = a_session(source)
    session.receive_data(startup(**STANDBY), 0)
    session.data_to_send()
    return session


def ask(session: Session, data: bytes, now: float = 1) -> list[str]:
    session.receive_data(data, now)
    return answers(session.data_to_send())


def test_a_standby_is_welcomed_as_by_a_server() -> None:
    lines = ask(a_session(), startup(**STANDBY))
    assert lines[0] == "ok"
    assert "parameter server_version=17.9" in lines
    assert "parameter integer_datetimes=on" in lines
    assert lines[-2:] == ["key of 4 bytes", "ready"]


def test_encryption_is_declined_and_the_startup_follows() -> None:
    session = a_session()
    for code in (80877103, 80877104):
        session.receive_data(struct.pack("!II", 8, code), 0)
        assert session.data_to_send() == [b"N"]
    assert ask(session, startup(**STANDBY))[-1] == "ready"


@pytest.mark.parametrize(
    ("protocol", "extra", "first", "key"),
    [
        (PROTOCOL_3_2, {}, "ok", "key of 32 bytes"),
        (3 << 16 | 9999, {}, "negotiate 3.2 []", "key of 32 bytes"),
        (3 << 16 | 1, {}, "negotiate 3.0 []", "key of 4 bytes"),
        (3 << 16, {"_pq_.x": "1"}, "negotiate 3.0 ['_pq_.x']", "key of 4 bytes"),
        (3 << 16 | 9999, {"_pq_.x": "1"}, "negotiate 3.2 ['_pq_.x']", "key of 32 bytes"),
    ],
)
def test_the_newest_common_protocol_is_negotiated(
    protocol: int, extra: dict[str, str], first: str, key: str
) -> None:
    lines = ask(a_session(), startup(protocol, **STANDBY, **extra))
    assert (lines[0], lines[-2]) == (first, key)


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"user": "stranger", "replication": "true"}, "FATAL 28000 stranger is not served"),
        ({"replication": "true"}, "FATAL 28000 no PostgreSQL user name"),
        ({"user": "orders"}, "FATAL 0A000 this is a WAL server"),
        ({"user": "orders", "replication": "database"}, "FATAL 0A000 this is a WAL server"),
    ],
)
def test_who_is_not_a_standby_of_ours_is_turned_away(
    parameters: dict[str, str], error: str
) -> None:
    session = a_session()
    [line] = ask(session, startup(**parameters))
    assert line.startswith(error)
    assert session.closed
    assert ask(session, query("IDENTIFY_SYSTEM")) == []


def test_a_client_that_never_introduces_itself_is_closed() -> None:
    session = a_session(now=10)
    assert session.deadline == 10 + STARTUP_TIMEOUT_SECONDS
    session.advance(session.deadline)
    assert session.closed


def test_a_cancel_request_only_ends_its_connection() -> None:
    session = a_session()
    session.receive_data(struct.pack("!IIII", 16, 80877102, 7, 0), 0)
    assert session.closed
    assert session.data_to_send() == []


def test_a_wrong_command_leaves_the_session_usable() -> None:
    session = started()
    assert ask(session, query("FETCH ME")) == [
        "ERROR 42601 not a replication command that this WAL server knows at 'FETCH'",
        "ready",
    ]
    assert ask(session, query("")) == ["empty", "ready"]
    assert ask(session, query("SHOW wal_segment_size")) == [
        "columns",
        "row 1MB",
        "complete SHOW",
        "ready",
    ]


def test_extended_queries_are_refused_up_to_their_sync() -> None:
    session = started()
    parse, bind = transcript.message("P", b"\0\0\0\0"), transcript.message("B", b"\0\0")
    refused = "ERROR 08P01 extended query protocol not supported in a replication connection"
    assert ask(session, parse + bind) == [refused]
    assert ask(session, query("IDENTIFY_SYSTEM") + transcript.message("S")) == ["ready"]
    assert ask(session, query("SHOW server_version"))[1] == "row 17.9"


def test_copy_messages_outside_copy_are_passed_over() -> None:
    session = started()
    stray = transcript.report(1) + transcript.copy_done() + transcript.message("f", b"why\0")
    assert ask(session, stray) == []
    assert ask(session, query(""))[-1] == "ready"


@pytest.mark.parametrize("stray", [query("IDENTIFY_SYSTEM"), transcript.message("P", b"\0\0\0\0")])
def test_a_query_inside_copy_ends_the_connection(stray: bytes) -> None:
    session = started()
    assert ask(session, query("START_REPLICATION 0/100000")) == ["copy"]
    [line] = ask(session, stray)
    assert line.startswith("FATAL 08P01")
    assert session.closed


def test_copy_fail_ends_the_copy_only() -> None:
    session = started()
    ask(session, query("START_REPLICATION 0/100000"))
    assert ask(session, transcript.message("f", b"disk full\0")) == [
        "ERROR 57014 COPY from the standby failed: disk full",
        "ready",
    ]
    assert ask(session, query("START_REPLICATION 0/100000")) == ["copy"]


def test_terminate_is_heard_in_every_state() -> None:
    for before in (b"", query("START_REPLICATION 0/100000"), transcript.message("P", b"")):
        session = started()
        ask(session, before)
        ask(session, transcript.message("X"))
        assert session.closed


def test_a_client_that_asks_and_does_not_read_is_answered_no_further() -> None:
    source = a_source()
    source.add_history(2, b"1\t0/100100\tno recovery target specified\n" + b"#" * 100_000)
    session = started(source)
    for _ in range(50):
        session.receive_data(query("TIMELINE_HISTORY 2"), 1)
    assert session.input_blocked
    answered = 0
    while output := session.data_to_send():
        assert sum(map(len, output)) < OUTPUT_LIMIT_BYTES + 200_000
        answered += answers(output).count("ready")
        session.advance(1)
    assert answered == 50
    assert not session.input_blocked


def test_shutting_down_tells_the_client_why() -> None:
    session = started()
    ask(session, query("START_REPLICATION 0/100000"))
    session.shut_down()
    assert answers(session.data_to_send()) == [
        "FATAL 57P01 terminating connection: this WAL server is stopping"
    ]
    assert session.closed


PIECES = st.one_of(
    st.sampled_from(
        [
            query("IDENTIFY_SYSTEM"),
            query("START_REPLICATION 0/100000 TIMELINE 1"),
            query("TIMELINE_HISTORY 1"),
            query("SHOW x"),
            transcript.report(1, 2, 3, asks=True),
            transcript.feedback(),
            transcript.copy_done(),
            transcript.message("f", b"\0"),
            transcript.message("S"),
            transcript.message("H"),
            transcript.message("P", b"\0"),
        ]
    ),
    st.text(max_size=40).filter(lambda text: "\0" not in text).map(query),
    st.binary(max_size=40),
)


@given(
    parameters=st.dictionaries(
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20),
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20),
        max_size=5,
    ),
    known=st.booleans(),
    protocol=st.integers(0, 0xFFFFFFFF) | st.integers(3 << 16, (3 << 16) + 5),
    pieces=st.lists(PIECES, max_size=15),
)
def test_whatever_is_sent_the_session_answers_or_closes(
    parameters: dict[str, str], known: bool, protocol: int, pieces: list[bytes]
) -> None:
    session, now = a_session(), 0.0
    given_parameters = {**parameters, **(STANDBY if known else {})}
    session.receive_data(startup(protocol, **given_parameters), now)
    for piece in pieces:
        now += 1
        session.receive_data(piece, now)
        session.advance(now)
        request = session.wal_wanted(now)
        if request is not None:
            session.wal_read(request, b"1" * request.max_bytes, now)
        output = session.data_to_send()
        assert sum(map(len, output)) < OUTPUT_LIMIT_BYTES + MAX_QUERY_BYTES
        # What goes out is a sequence of well-formed messages, whatever came in.
        answers(part for part in output if part != b"N")

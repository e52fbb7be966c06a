"""Each thing a server or libpq may say has the code that callers act on."""

from __future__ import annotations

import pytest

from logship.errors import Code
from logship.postgres.server_errors import Doing, from_connect_failure, from_server


@pytest.mark.parametrize(
    ("sqlstate", "message", "doing", "code", "retryable"),
    [
        ("58P01", "entferntes Segment", Doing.STREAM, Code.WAL_REMOVED, False),
        ("58P01", "no such file", Doing.HISTORY, Code.HISTORY_MISSING, False),
        ("58P01", "could not open file", Doing.BASE_BACKUP, Code.SEED_FAILED, True),
        ("42704", "slot does not exist", Doing.STREAM, Code.SLOT_LOST, False),
        ("42710", "slot already exists", Doing.SLOT, Code.SLOT_EXISTS, False),
        ("55006", "slot is active for PID 7", Doing.STREAM, Code.SLOT_IN_USE, True),
        ("55000", "can no longer access slot", Doing.STREAM, Code.SLOT_LOST, False),
        ("55000", "cannot use a logical slot", Doing.STREAM, Code.PRIMARY_REFUSED, False),
        ("28000", "no", Doing.COMMAND, Code.PRIMARY_REFUSED, False),
        ("42501", "permission denied", Doing.BASE_BACKUP, Code.PRIMARY_REFUSED, False),
        ("57P01", "terminating", Doing.STREAM, Code.PRIMARY_UNREACHABLE, True),
        ("57P03", "starting up", Doing.COMMAND, Code.PRIMARY_NOT_READY, True),
        ("53300", "too many", Doing.COMMAND, Code.PRIMARY_NOT_READY, True),
        ("42601", "syntax error", Doing.COMMAND, Code.PRIMARY_REFUSED, False),
        ("22023", "bad option", Doing.BASE_BACKUP, Code.SEED_FAILED, False),
    ],
)
def test_states_decide(
    sqlstate: str, message: str, doing: Doing, code: Code, retryable: bool
) -> None:
    error = from_server(sqlstate, message, "", doing, "db1:5432")
    assert (error.code, error.retryable) == (code, retryable)
    assert message in error.what
    assert "db1:5432" in error.what
    assert error.hint


@pytest.mark.parametrize(
    ("message", "code", "retryable"),
    [
        ("FATAL:  no pg_hba.conf entry for replication …", Code.PRIMARY_REFUSED, False),
        ('FATAL:  role "x" does not exist', Code.PRIMARY_REFUSED, False),
        ("FATAL:  the database system is starting up", Code.PRIMARY_NOT_READY, True),
        ("FATAL:  sorry, too many clients already", Code.PRIMARY_NOT_READY, True),
        ("Connection refused", Code.PRIMARY_UNREACHABLE, True),
        ("server closed the connection unexpectedly", Code.PRIMARY_UNREACHABLE, True),
        ("SSL error: certificate verify failed", Code.PRIMARY_REFUSED, False),
        ("ВАЖНО:  что-то", Code.PRIMARY_UNREACHABLE, True),
    ],
)
def test_texts_decide_where_there_is_no_state(message: str, code: Code, retryable: bool) -> None:
    error = from_connect_failure(message, "db1:5432")
    assert (error.code, error.retryable) == (code, retryable)


def test_a_missing_password_is_seen_in_any_language() -> None:
    error = from_connect_failure("не указан пароль", "db1:5432", needs_password=True)
    assert error.code is Code.PRIMARY_REFUSED
    assert "passfile" in error.hint

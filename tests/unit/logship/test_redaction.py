"""No secret gets out through a message or a log line."""

from __future__ import annotations

import pytest

from logship.redaction import names_a_secret, redact


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("host=a password=hunter2 port=1", "host=a password=*** port=1"),
        ("password = 'a b\\'c' user=x", "password = *** user=x"),
        ("PASSWORD=hunter2", "PASSWORD=***"),
        ("password='unterminated hunter2", "password=***"),
        ("sslpassword=hunter2", "sslpassword=***"),
        ("postgresql://u:hunter2@h:5432/db", "postgresql://u:***@h:5432/db"),
        (
            "postgresql://h/db?user=u&password=hunter2&x=1",
            "postgresql://h/db?user=u&password=***&x=1",
        ),
        ("passfile=/etc/pass host=a", "passfile=/etc/pass host=a"),
        ("tcp://host:7432 is fine", "tcp://host:7432 is fine"),
        ("fe_sendauth: no password supplied", "fe_sendauth: no password supplied"),
    ],
)
def test_secrets_are_taken_out(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize("name", ["password", "secret_key", "db_password", "Token"])
def test_names_of_secrets_are_known(name: str) -> None:
    assert names_a_secret(name)


@pytest.mark.parametrize("name", ["secret_key_file", "public_key", "passfile", "instance"])
def test_names_that_hide_nothing_are_shown(name: str) -> None:
    assert not names_a_secret(name)

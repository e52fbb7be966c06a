from __future__ import annotations

import base64

import crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logship.errors import Code, UsageError
from logship.link.token import MAX_TOKEN_CHARACTERS, JoinToken
from tests.support.fake_intake import new_keys

APPLIER = new_keys()
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def made(instance: str = "main", address: str = "tcp://recovery.example.com:7432") -> JoinToken:
    return JoinToken.make(address=address, applier_public_key=APPLIER.public, instance=instance)


def error_of(text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        JoinToken.parse(text)
    assert caught.value.code is Code.BAD_TOKEN
    assert caught.value.hint
    return caught.value


def sealed(body: bytes) -> str:
    whole = body + crc32c.crc32c(body).to_bytes(4, "little")
    return base64.urlsafe_b64encode(whole).decode().rstrip("=")


def opened(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))[:-4]


@given(
    st.from_regex(r"\A[a-z][a-z0-9_-]{0,47}\Z"),
    st.sampled_from(["tcp://r:1", "tcp://[2001:db8::1]:7432", "tcp://" + "a" * 250 + ":65535"]),
)
def test_a_token_says_what_it_was_made_of(instance: str, address: str) -> None:
    token = made(instance, address)
    assert JoinToken.parse(token.text()) == token
    assert token.text().startswith("A"), "so that no command takes it for an option"


def test_no_two_tokens_are_alike() -> None:
    assert made().keys != made().keys


def test_the_line_breaks_of_a_terminal_do_not_matter() -> None:
    token = made()
    text = token.text()
    assert JoinToken.parse(f"  {text[:50]}\n{text[50:]}\r\n") == token


@given(st.data())
def test_any_one_wrong_character_is_told_and_not_repeated(data: st.DataObject) -> None:
    text = made().text()
    place = data.draw(st.integers(0, len(text) - 1))
    wrong = data.draw(st.sampled_from([c for c in ALPHABET + "+/=.é" if c != text[place]]))
    typo = text[:place] + wrong + text[place + 1 :]
    error = error_of(typo)
    assert typo not in str(error) and text not in str(error)


@given(st.data())
def test_a_part_of_a_token_is_told(data: st.DataObject) -> None:
    text = made().text()
    error_of(text[: data.draw(st.integers(0, len(text) - 1))])


@given(st.text(max_size=300) | st.binary(max_size=300).map(sealed))
def test_nothing_else_is_a_token_and_nothing_raises_another_error(text: str) -> None:
    error_of(text)


def test_a_text_without_end_is_not_looked_at() -> None:
    assert str(MAX_TOKEN_CHARACTERS + 1) in error_of("A" * (MAX_TOKEN_CHARACTERS + 1)).what


def test_a_newer_version_is_named() -> None:
    error = error_of(sealed(b"\x02" + opened(made().text())[1:]))
    assert "version 2" in error.what
    assert "Logship" in error.hint


@pytest.mark.parametrize("address", ["tcp://*:7432", "tcp://r", "http://r:1", "tcp://r:1\n"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    error_of(sealed(opened(made("m", "tcp://r:1").text())[:-9] + address.encode()))


def test_a_name_that_is_none_is_told() -> None:
    body = opened(made("main", "tcp://r:1").text())
    error_of(sealed(body.replace(b"main", b"../x")))


def test_the_secret_is_not_shown() -> None:
    token = made()
    assert token.keys.secret not in repr(token)
    assert token.text() not in repr(token)

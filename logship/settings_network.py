"""Checks that both sides' settings share: TCP endpoints and public keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from logship.settings_schema import Contradiction

PUBLIC_KEY_CHARACTERS: Final = 40
"""A CURVE key in Z85 (ZeroMQ RFC 32): 32 bytes in 40 characters."""

_Z85 = re.compile(r"\A[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}\Z")
_ENDPOINT = re.compile(r"\Atcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+|\*):([0-9]{1,5})\Z")


class Endpoint(NamedTuple):
    """`host` without the brackets of an IPv6 address; "*" for all interfaces."""

    host: str
    port: int


def parse_tcp_endpoint(text: str) -> Endpoint:
    """Read `tcp://HOST:PORT`.  Raises ValueError."""
    match = _ENDPOINT.match(text)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ValueError(f"not tcp://HOST:PORT: {text!r}")
    return Endpoint(match[1].strip("[]"), int(match[2]))


def check_listen(key: str, text: str) -> Iterator[tuple[str, str]]:
    """A `Check`: nothing if `text` is an endpoint."""
    try:
        parse_tcp_endpoint(text)
    except ValueError:
        yield (
            f"{key} must be tcp://HOST:PORT, not {text!r}",
            "an IPv6 address stands in brackets: tcp://[2001:db8::1]:7432",
        )


def check_address(key: str, text: str) -> Iterator[tuple[str, str]]:
    """A `Check`: nothing if `text` is an endpoint to connect to."""
    wrong = list(check_listen(key, text))
    yield from wrong
    if not wrong and parse_tcp_endpoint(text).host in ("*", "0.0.0.0", "::"):
        yield (
            f"{key} is {text!r}, which is a place to listen, not one to connect to",
            "name the recovery server",
        )


def is_public_key(text: str) -> bool:
    """Whether `text` is a CURVE key in Z85."""
    return _Z85.match(text) is not None


def check_public_key(key: str, text: str) -> Iterator[tuple[str, str]]:
    """A `Check`: nothing if `text` is empty or a public key."""
    if text and not is_public_key(text):
        yield (
            f"{key} is not a public key: {len(text)} characters, or some that none has",
            f"it is the {PUBLIC_KEY_CHARACTERS} characters in the .pub file that `keygen` "
            f"wrote; for a path use {key.rpartition('.')[2]}_file",
        )


def check_one_of_key_and_file(
    key: tuple[str, ...], text: str, file: Path | None
) -> Iterator[Contradiction]:
    """Nothing if exactly one of a public key and its file is given.

    `key`: of the text, from the section whose contradictions this is part of.
    """
    if bool(text) == (file is not None):
        both = "are both given" if text else "are both missing"
        name = key[-1]
        yield Contradiction(key, f"{name} and {name}_file {both}", "give one of them")

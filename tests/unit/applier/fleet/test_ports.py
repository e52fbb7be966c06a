"""A port for an instance that names none."""

from __future__ import annotations

import socket

import pytest

from applier.fleet.ports import allot_port, check_ports, is_port_free, parse_ports
from logship.errors import Code, RefusedError


@pytest.mark.parametrize(
    "text", ["", "5433", "5499-5433", "0-10", "1-65536", "a-b", "1-2-3", " 1-2"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no range"):
        parse_ports(text)
    ((what, hint),) = check_ports("fleet.ports", text)
    assert what.startswith("fleet.ports must be") and "5433-5499" in hint


def test_a_range_has_both_its_ends() -> None:
    assert list(parse_ports("5433-5435")) == [5433, 5434, 5435]
    assert list(parse_ports("65535-65535")) == [65535]
    assert list(check_ports("fleet.ports", "5433-5435")) == []


def test_the_first_that_nobody_has_and_nobody_uses() -> None:
    asked: list[int] = []

    def is_free(port: int) -> bool:
        asked.append(port)
        return port != 5434

    assert allot_port(parse_ports("5433-5436"), {5433}, is_free) == 5435
    assert asked == [5434, 5435], "a port that is spoken for is not looked at"


def test_a_full_range_is_said() -> None:
    with pytest.raises(RefusedError) as caught:
        allot_port(parse_ports("5433-5434"), {5433}, lambda port: False)
    assert caught.value.code is Code.PORT_TAKEN
    assert "5433 to 5434" in caught.value.what and "fleet.ports" in caught.value.hint


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_somebody_listens_on_is_not_free(address: str) -> None:
    with socket.socket() as listener:
        listener.bind((address, 0))
        port = listener.getsockname()[1]
        listener.listen()
        assert not is_port_free(port)
    assert is_port_free(port)

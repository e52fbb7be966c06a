from __future__ import annotations

import socket

import pytest

from applier.enrolment.address import own_address
from logship.errors import UsageError


@pytest.mark.parametrize(
    "listen", ["tcp://192.0.2.1:7432", "tcp://[2001:db8::1]:7432", "tcp://recovery:1"]
)
def test_a_place_that_is_said_is_where_it_leads(listen: str) -> None:
    assert own_address(listen) == listen


@pytest.mark.parametrize("listen", ["tcp://*:7432", "tcp://0.0.0.0:7432", "tcp://[::]:7432"])
def test_everywhere_is_this_host_by_its_name(monkeypatch: pytest.MonkeyPatch, listen: str) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "recovery.example.com")
    assert own_address(listen) == "tcp://recovery.example.com:7432"
    for nameless in ("localhost", "localhost.localdomain"):
        monkeypatch.setattr(socket, "getfqdn", lambda: nameless)  # noqa: B023
        with pytest.raises(UsageError) as caught:
            own_address(listen)
        assert "--address" in caught.value.hint

"""Ports that are kept for servers."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from logship.kept_ports import ADDRESS, KeptPorts


def test_a_port_is_nobody_elses_and_a_server_can_listen_there_again_and_again() -> None:
    with closing(KeptPorts()) as kept:
        ports = [kept.take() for _ in range(50)]
        assert len(set(ports)) == 50
        with socket.socket() as another, pytest.raises(OSError, match="in use"):
            another.bind((ADDRESS, ports[0]))
        for _ in range(2):
            with (
                socket.create_server((ADDRESS, ports[0])) as server,
                socket.create_connection((ADDRESS, ports[0]), 30) as caller,
                server.accept()[0] as called,
            ):
                assert called.getpeername() == caller.getsockname()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((ADDRESS, ports[0]), 30)
    kept.close()
    with socket.socket() as another:
        another.bind((ADDRESS, ports[1]))

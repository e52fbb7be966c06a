"""The WAL server before pg_receivewal, which asks more questions than a walreceiver."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from applier.walserver.server import WalServer
from logship.lsn import Lsn
from logship.wal import segment_name
from tests.conftest import PrimaryFactory
from tests.integration.walserver_feed import feeding, source_of
from tests.support.installations import wheel_dir

pytestmark = pytest.mark.integration


async def receive(server: WalServer, target: Path, *arguments: str) -> tuple[str, int | None]:
    """What pg_receivewal says, and its exit status."""
    process = await asyncio.create_subprocess_exec(
        wheel_dir() / "bin" / "pg_receivewal",
        *("--host", str(server.socket_path.parent), "--port", "6001"),
        *("--username", "orders", "--directory", str(target), "--no-password"),
        *("--no-loop", "--verbose", *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode(), process.returncode


async def test_pg_receivewal_gets_the_primary_s_own_bytes(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> None:
    origin = primary(18, wal_segsize_mb=1)
    source = source_of(origin, 18)
    await asyncio.to_thread(
        origin.execute, "create table t as select repeat('x', 500) from generate_series(1, 5000)"
    )
    async with feeding(origin, source):
        pass
    assert source.written is not None
    target = shared_tmp_path / "received"
    target.mkdir()
    server = WalServer(shared_tmp_path / "wal", 6001, allowed_uids=frozenset({os.geteuid()}))
    server.serve("orders", source, "18.1")
    await server.start()
    try:
        # It stops once it is past the position.
        said, status = await receive(server, target, "--endpos", str(Lsn(source.written.lsn - 1)))
        assert status == 0, said
        # Asked where a slot stands, we answer as a server that has no such slot.
        empty = shared_tmp_path / "empty"
        empty.mkdir()
        said, status = await receive(server, empty, "--slot", "nightly")
        assert (status, 'replication slot "nightly" does not exist' in said) == (1, True), said
    finally:
        await server.stop()
    # Without a directory to resume from it begins at the segment the server is in.
    size = source.line.segment_bytes
    name = segment_name(1, source.written.lsn, size)
    begin = Lsn(source.written.lsn - source.written.lsn % size)
    [received] = target.iterdir()
    assert received.name == name + ".partial"
    wanted = source.read(1, begin, source.written.lsn - begin)
    assert received.read_bytes()[: len(wanted)] == wanted

"""The applier's API over a real unix socket, through the client that the commands use."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from applier.api.operations import Report
from applier.api.server import ApiServer
from logship.applier_client import MAX_PROFILE_REQUEST_BYTES, ApplierClient, find_socket
from logship.environment import DatabaseFacts, Environment
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.identity import Incarnation, Profile
from logship.profile_document import MAX_PROFILE_BYTES, profile_document
from logship.status import InstanceStatus
from tests.support.link_frames import profile

LARGE = DatabaseFacts(
    name="ö" * 110_000,
    encoding="UTF8",
    provider="c",
    collate="C",
    ctype="C",
    recorded_version="",
    actual_version="",
)
"""As much as a shipper may tell, in characters that JSON has longer."""


class Operations:
    """An applier with one instance, `main`, whose promotion waits to be let go."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.failure: BaseException | None = None
        self.early_failure: BaseException | None = None
        self.seeds: list[tuple[str, str, str]] = []
        self.promoted: list[str] = []
        self.chosen: Incarnation | None = None
        self.compared: Profile | None = None

    async def instances(self) -> list[InstanceStatus]:
        return [self.instance("main")]

    def instance(self, name: str) -> InstanceStatus:
        if name != "main":
            raise UsageError(Code.UNKNOWN_INSTANCE, f"there is no instance {name!r}", "look again")
        return cast(InstanceStatus, {"name": "main", "phase": "following"})

    async def promote(
        self, name: str, report: Report, incarnation: Incarnation | None
    ) -> dict[str, Any]:
        self.chosen = incarnation
        self.instance(name)
        if self.early_failure is not None:
            raise self.early_failure
        report("replaying", {"to": "0/3000000"})
        await self.go_on.wait()
        report("promoting", {})
        if self.failure is not None:
            raise self.failure
        self.promoted.append(name)
        return {"timeline": 2}

    async def enroll(self, name: str, address: str, hours: float) -> dict[str, Any]:
        return {"instance": name, "address": address, "hours": hours}

    async def compat(
        self, name: str, against: str, primary: Profile | None = None
    ) -> dict[str, Any]:
        self.compared = primary
        return {"name": name, "against": against}

    async def request_seed(self, name: str, why: str, source: str) -> dict[str, Any]:
        self.seeds.append((name, why, source))
        return {"requested": True}

    async def retention(self, name: str, *, dry_run: bool) -> dict[str, Any]:
        return {"name": name, "dry_run": dry_run}

    async def switch_installation(
        self, name: str, version: str, within_seconds: float
    ) -> dict[str, Any]:
        return {
            "name": name,
            "chosen": version,
            "version": version,
            "directory": "/pg/bin",
            "before": "17.7",
            "seconds": 1.25,
            "within_seconds": within_seconds,
        }

    async def accept(self, name: str, incarnation: Incarnation) -> dict[str, Any]:
        return {"name": name, "accepted": str(incarnation)}

    async def forget(self, name: str, incarnation: Incarnation | None) -> dict[str, Any]:
        return {"name": name, "forgotten": [str(incarnation)]}


@pytest.fixture
async def operations() -> Operations:
    return Operations()


@pytest.fixture
def path(shared_tmp_path: Path) -> Path:
    return shared_tmp_path / "applier.sock"


@pytest.fixture
async def server(operations: Operations, path: Path) -> AsyncIterator[ApiServer]:
    server = ApiServer(operations, path)
    await server.start()
    yield server
    operations.go_on.set()
    await server.stop()


@pytest.fixture
def client(server: ApiServer, path: Path) -> ApplierClient:
    return ApplierClient(path)


async def error_of(call: Callable[[], object]) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        await asyncio.to_thread(call)
    return caught.value


async def raw(path: Path, request: bytes) -> tuple[int, dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def test_the_check_is_asked_for_with_any_name_of_an_installation(
    client: ApplierClient,
) -> None:
    for against in ("", "17.10", "/usr/lib/postgresql/17/bin", "a b&c=d?"):
        answer = await asyncio.to_thread(client.compat, "main", against)
        assert answer == {"name": "main", "against": against}


async def test_the_check_is_asked_with_a_primary_that_is_given(
    client: ApplierClient, operations: Operations, path: Path
) -> None:
    said = profile(environment=Environment(databases=(LARGE,)))
    document = profile_document(said)
    assert len(json.dumps(document)) > 4 * MAX_PROFILE_BYTES // 5
    answer = await asyncio.to_thread(client.compat, "main", "17.10", document)
    assert answer == {"name": "main", "against": "17.10"}
    assert operations.compared == said
    await asyncio.to_thread(client.compat, "main", "17.10")
    assert operations.compared is None

    for wrong in ({}, {**document, "block_size": "large"}, {"error": {"code": "internal"}}):
        error = await error_of(lambda wrong=wrong: client.compat("main", "", wrong))
        assert isinstance(error, UsageError)
        assert "no profile of a primary" in error.what and "shipper profile" in error.hint
    too_long = {**document, "more": "x" * MAX_PROFILE_REQUEST_BYTES}
    assert isinstance(await error_of(lambda: client.compat("main", "", too_long)), UsageError)
    for body in (b'{"primary": []}', b'{"against": 17}', b"[" * 10_000):
        head = f"POST /v1/instances/main/compat HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        status, answer = await raw(path, head.encode() + body)
        assert (status, answer["error"]["code"]) == (400, "usage")


async def test_status_of_all_and_of_one(client: ApplierClient) -> None:
    (one,) = await asyncio.to_thread(client.instances)
    assert dict(one) == {"name": "main", "phase": "following"}
    assert (await asyncio.to_thread(client.instance, "main"))["name"] == "main"


@pytest.mark.parametrize("name", ["other", "a b", "ü", "x?y=1", "%2e"])
async def test_an_unknown_instance_is_a_usage_error(client: ApplierClient, name: str) -> None:
    error = await error_of(lambda: client.instance(name))
    assert isinstance(error, UsageError)
    assert (error.code, error.hint) == (Code.UNKNOWN_INSTANCE, "look again")
    assert repr(name) in error.what


async def test_only_the_owner_may_use_the_socket(server: ApiServer, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_group_may_be_let_in(operations: Operations, path: Path) -> None:
    import grp

    server = ApiServer(operations, path, group=grp.getgrgid(os.getgid()).gr_name)
    await server.start()
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    finally:
        await server.stop()
    assert not path.exists()


async def test_a_group_that_there_is_not_is_refused(operations: Operations, path: Path) -> None:
    with pytest.raises(UsageError, match="no group 'nobody-at-all'"):
        await ApiServer(operations, path, group="nobody-at-all").start()


async def test_a_second_applier_is_refused_and_the_first_goes_on(
    client: ApplierClient, operations: Operations, path: Path
) -> None:
    with pytest.raises(RefusedError) as caught:
        await ApiServer(operations, path).start()
    assert caught.value.code is Code.SOCKET_IN_USE
    assert await asyncio.to_thread(client.instances)


async def test_a_socket_that_a_dead_applier_left_is_replaced(
    operations: Operations, path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = ApiServer(operations, path)
    await server.start()
    try:
        assert await asyncio.to_thread(ApplierClient(path).instances)
    finally:
        await server.stop()


async def test_a_file_of_something_else_is_left_alone(operations: Operations, path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(UsageError, match="is not a socket"):
        await ApiServer(operations, path).start()
    assert path.read_text() == "mine"


async def test_a_path_that_is_too_long_is_explained(operations: Operations, path: Path) -> None:
    with pytest.raises(UsageError, match="107 at most"):
        await ApiServer(operations, path.with_name("x" * 120)).start()


async def test_each_step_of_a_promotion_arrives_as_it_is_made(
    client: ApplierClient, operations: Operations
) -> None:
    events = client.promote("main")
    first = await asyncio.to_thread(next, events)
    assert first == {"step": "replaying", "details": {"to": "0/3000000"}}
    assert operations.promoted == []
    operations.go_on.set()
    rest = await asyncio.to_thread(list, events)
    assert rest == [{"step": "promoting", "details": {}}, {"result": {"timeline": 2}}]


async def test_a_promotion_that_is_refused_at_once_is_a_refusal(
    client: ApplierClient, operations: Operations
) -> None:
    operations.early_failure = RefusedError(Code.ALREADY_PROMOTED, "it is open", "connect to it")
    error = await error_of(lambda: list(client.promote("main")))
    assert isinstance(error, RefusedError)
    assert error.as_dict() == operations.early_failure.as_dict()
    unknown = await error_of(lambda: list(client.promote("other")))
    assert isinstance(unknown, UsageError)


async def test_a_promotion_that_fails_on_the_way_says_why(
    client: ApplierClient, operations: Operations
) -> None:
    operations.failure = LogshipError(Code.PROMOTE_FAILED, "no write", "look", retryable=True)
    operations.go_on.set()
    error = await error_of(lambda: list(client.promote("main")))
    assert error.as_dict() == operations.failure.as_dict()


async def test_a_bug_in_a_promotion_is_said_without_its_text(
    client: ApplierClient, operations: Operations
) -> None:
    operations.failure = ZeroDivisionError("password=hunter2")
    operations.go_on.set()
    error = await error_of(lambda: list(client.promote("main")))
    assert error.code is Code.INTERNAL
    assert "hunter2" not in f"{error}"


async def test_a_promotion_goes_on_when_the_one_who_asked_goes_away(
    client: ApplierClient, server: ApiServer, operations: Operations
) -> None:
    events = client.promote("main")
    await asyncio.to_thread(next, events)
    await asyncio.to_thread(events.close)  # type: ignore[attr-defined]
    operations.go_on.set()
    await server.stop()
    assert operations.promoted == ["main"]


async def test_an_applier_that_dies_during_a_promotion_is_noticed(path: Path) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        # All of it: what is left unread would reset the connection under the answer.
        found = re.search(rb"content-length: (\d+)", head.lower())
        await reader.readexactly(int(found[1]) if found else 0)
        line = b'{"step": "replaying", "details": {}}\n'
        chunk = b"%x\r\n%s\r\n" % (len(line), line)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
        await writer.drain()
        writer.transport.abort()

    async with await asyncio.start_unix_server(die, path):
        seen: list[dict[str, Any]] = []
        error = await error_of(lambda: seen.extend(ApplierClient(path).promote("main")))
    assert [each["step"] for each in seen] == ["replaying"]
    assert error.code is Code.APPLIER_UNREACHABLE
    assert "broke off" in error.what


async def test_a_seed_is_asked_for_with_its_reason(
    client: ApplierClient, operations: Operations
) -> None:
    answer = await asyncio.to_thread(client.request_seed, "main", "disk was replaced")
    assert answer == {"requested": True}
    await asyncio.to_thread(client.request_seed, "main", "a test", "bucket")
    assert operations.seeds == [("main", "disk was replaced", ""), ("main", "a test", "bucket")]


async def test_a_token_is_asked_for_with_its_address_and_its_hours(client: ApplierClient) -> None:
    asked = {"instance": "new", "address": "tcp://r:1", "hours": 0.5}
    assert await asyncio.to_thread(client.enroll, "new", "tcp://r:1", 0.5) == asked
    default = await asyncio.to_thread(client.enroll, "new")
    assert default == {"instance": "new", "address": "", "hours": 1}


async def test_retention_is_only_told_unless_it_is_wanted(
    client: ApplierClient, path: Path
) -> None:
    wanted = await asyncio.to_thread(client.retention, "main", dry_run=False)
    assert wanted == {"name": "main", "dry_run": False}
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.post("http://localhost/v1/instances/main/retention") as answer,
    ):
        assert await answer.json() == {"name": "main", "dry_run": True}


async def test_clusters_are_named_by_system_identifier_and_major(
    client: ApplierClient, operations: Operations
) -> None:
    name = "7301234567890123456-17"
    answer = await asyncio.to_thread(client.accept, "main", name)
    assert answer == {"name": "main", "accepted": name}
    assert (await asyncio.to_thread(client.forget, "main", name))["forgotten"] == [name]
    assert (await asyncio.to_thread(client.forget, "main", None))["forgotten"] == ["None"]
    operations.go_on.set()
    await asyncio.to_thread(lambda: list(client.promote("main", name)))
    assert operations.chosen == Incarnation(7301234567890123456, 17)
    await asyncio.to_thread(lambda: list(client.promote("main")))
    assert operations.chosen is None


async def test_an_installation_is_switched_with_a_limit(client: ApplierClient) -> None:
    answer = await asyncio.to_thread(client.switch_installation, "main", "17.10", 9.5)
    assert (answer["chosen"], answer["within_seconds"]) == ("17.10", 9.5)


@pytest.mark.parametrize(
    ("request_line", "body", "status"),
    [
        ("POST /v1/instances/main/retention", '{"dry_run": "no"}', 400),
        ("POST /v1/instances/main/enroll", '{"address": 3}', 400),
        ("POST /v1/instances/main/enroll", '{"hours": true}', 400),
        ("POST /v1/instances/main/enroll", '{"hours": "1"}', 400),
        ("POST /v1/instances/main/seed", "[1]", 400),
        ("POST /v1/instances/main/seed", "{", 400),
        ("POST /v1/instances/main/seed", '{"why": 3}', 400),
        ("POST /v1/instances/main/seed", '{"from": 3}', 400),
        ("POST /v1/instances/main/add", '{"set": ["port"]}', 400),
        ("POST /v1/instances/main/change", '{"set": 1}', 400),
        ("POST /v1/instances/main/change", '{"unset": "port"}', 400),
        ("POST /v1/instances/main/change", '{"unset": [1]}', 400),
        ("POST /v1/instances/main/remove", '{"keep_data": "yes"}', 400),
        ("POST /v1/instances/main/remove", '{"promoted": 1}', 400),
        ("POST /v1/instances/main/promote", "nonsense", 400),
        ("POST /v1/instances/main/promote", '{"incarnation": "main"}', 400),
        ("POST /v1/instances/main/accept", "{}", 400),
        ("POST /v1/instances/main/accept", '{"incarnation": 17}', 400),
        ("POST /v1/instances/main/installation", "{}", 400),
        ("POST /v1/instances/main/installation", '{"to": "auto", "within_seconds": "1"}', 400),
        ("DELETE /v1/instances/main", "", 405),
        ("GET /v2/instances", "", 404),
        ("POST /v1/instances/main/seed", '"' + "x" * 70_000 + '"', 413),
    ],
)
async def test_wrong_requests_are_answered_in_json(
    server: ApiServer,
    path: Path,
    operations: Operations,
    request_line: str,
    body: str,
    status: int,
) -> None:
    head = f"{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    answered, document = await raw(path, head.encode() + body.encode())
    assert answered == status
    assert document["error"]["code"] == "usage"
    assert operations.seeds == []
    assert operations.promoted == []


async def test_nobody_there_is_explained(path: Path) -> None:
    error = await error_of(ApplierClient(path).instances)
    assert (error.code, error.retryable) == (Code.APPLIER_UNREACHABLE, True)
    assert str(path) in error.what
    assert "--offline" in error.hint


async def test_something_else_on_the_socket_is_explained(path: Path) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(other, path):
        error = await error_of(ApplierClient(path).instances)
    assert "does not speak its language" in error.what


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every socket")
async def test_a_closed_socket_names_the_permission(server: ApiServer, path: Path) -> None:
    path.chmod(0)
    error = await error_of(ApplierClient(path).instances)
    assert (error.code, error.retryable) == (Code.APPLIER_UNREACHABLE, False)


def test_the_socket_is_found_by_option_environment_and_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LOGSHIP_APPLIER", raising=False)
    assert find_socket(None) == Path("/run/logship/applier.sock")
    monkeypatch.setenv("LOGSHIP_APPLIER", "/a")
    assert find_socket(None) == Path("/a")
    assert find_socket("/b") == Path("/b")

"""The HTTP side of the API: aiohttp on a unix socket, over `Operations`."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import shutil
import socket
import stat
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from applier.api.operations import Operations
from logship.applier_client import MAX_PROFILE_REQUEST_BYTES
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.identity import Incarnation, parse_incarnation
from logship.lsn import plain_lsn
from logship.profile_document import read_profile_document

MAX_REQUEST_BYTES: Final = 64 * 1024
SWITCH_SECONDS: Final = 120.0
"""How long a standby may take to stream on another installation, if the request does not say."""
MAX_SOCKET_PATH_BYTES: Final = 107
"""sockaddr_un.sun_path holds 108 with the terminating zero (unix(7))."""

_STOP_TIMEOUT_SECONDS = 5.0

_log = structlog.get_logger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Event = tuple[str, dict[str, Any]]


class ApiServer:
    """Serves `operations` on `path`; `group` may use the socket besides its owner."""

    def __init__(self, operations: Operations, path: Path, *, group: str = "") -> None:
        self._operations = operations
        self._path = path
        self._group = group
        self._runner: web.AppRunner | None = None
        self._promotions: set[asyncio.Task[dict[str, Any]]] = set()

    async def start(self) -> None:
        """Listen.  Raises LogshipError: SOCKET_IN_USE if somebody answers there already,
        SETTINGS if the socket can't be made."""
        app = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[_errors_as_json])
        app.router.add_get("/v1/instances", self._get_instances)
        app.router.add_get("/v1/instances/{name}", self._get_instance)
        app.router.add_get("/v1/fleet", self._get_fleet)
        app.router.add_post("/v1/instances/{name}/add", self._add)
        app.router.add_post("/v1/instances/{name}/change", self._change)
        app.router.add_post("/v1/instances/{name}/remove", self._remove)
        app.router.add_get("/v1/instances/{name}/compat", self._get_compat)
        app.router.add_post("/v1/instances/{name}/compat", self._compat)
        app.router.add_post("/v1/instances/{name}/promote", self._promote)
        app.router.add_post("/v1/instances/{name}/seed", self._seed)
        app.router.add_post("/v1/instances/{name}/enroll", self._enroll)
        app.router.add_post("/v1/instances/{name}/retention", self._retention)
        app.router.add_post("/v1/instances/{name}/installation", self._switch_installation)
        app.router.add_post("/v1/instances/{name}/accept", self._accept)
        app.router.add_post("/v1/instances/{name}/forget", self._forget)
        listener = listen(self._path, self._group)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=_STOP_TIMEOUT_SECONDS, handle_signals=False
        )
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        """Stop listening and remove the socket.  A promotion that runs is waited for."""
        if self._promotions:
            _log.info("waiting for promotions before stopping", running=len(self._promotions))
            await asyncio.wait(self._promotions)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self._path.unlink(missing_ok=True)

    async def _get_instances(self, _request: web.Request) -> web.Response:
        documents = await self._operations.instances()
        # In one go, and so quickly: of hundreds it takes long otherwise.
        body = msgspec.json.encode({"instances": documents}, enc_hook=plain_lsn)
        return web.Response(body=body, content_type="application/json")

    async def _get_instance(self, request: web.Request) -> web.Response:
        return web.json_response(self._operations.instance(request.match_info["name"]))

    async def _get_fleet(self, _request: web.Request) -> web.Response:
        return web.json_response({"instances": await self._operations.fleet()})

    async def _add(self, request: web.Request) -> web.Response:
        said = _table(await _json_body(request), "set")
        name = request.match_info["name"]
        return web.json_response(await self._operations.add_instance(name, said))

    async def _change(self, request: web.Request) -> web.Response:
        body = await _json_body(request)
        changes, unset = _table(body, "set"), body.get("unset", [])
        if not isinstance(unset, list) or not all(isinstance(each, str) for each in unset):
            raise UsageError(Code.USAGE, "`unset` must be a list of names")
        name = request.match_info["name"]
        return web.json_response(await self._operations.change_instance(name, changes, unset))

    async def _remove(self, request: web.Request) -> web.Response:
        body = await _json_body(request)
        name = request.match_info["name"]
        keep_data, promoted = _flag(body, "keep_data"), _flag(body, "promoted")
        removed = await self._operations.remove_instance(
            name, keep_data=keep_data, promoted=promoted
        )
        return web.json_response(removed)

    async def _get_compat(self, request: web.Request) -> web.Response:
        name, against = request.match_info["name"], request.query.get("against", "")
        return web.json_response(await self._operations.compat(name, against))

    async def _compat(self, request: web.Request) -> web.Response:
        body = await _json_body(request.clone(client_max_size=MAX_PROFILE_REQUEST_BYTES))
        against, primary = body.get("against", ""), None
        if not isinstance(against, str):
            raise UsageError(Code.USAGE, "`against` must be text")
        if body.get("primary") is not None:
            primary = read_profile_document(_table(body, "primary"))
        name = request.match_info["name"]
        return web.json_response(await self._operations.compat(name, against, primary))

    async def _seed(self, request: web.Request) -> web.Response:
        body = await _json_body(request)
        why, source = body.get("why", "an operator asked"), body.get("from", "")
        if not isinstance(why, str) or not isinstance(source, str):
            raise UsageError(Code.USAGE, "`why` and `from` must be text")
        name = request.match_info["name"]
        return web.json_response(await self._operations.request_seed(name, why, source))

    async def _enroll(self, request: web.Request) -> web.Response:
        body = await _json_body(request)
        address, hours = body.get("address", ""), body.get("hours", 1)
        if not isinstance(address, str) or type(hours) not in (int, float):
            raise UsageError(Code.USAGE, "`address` must be text, `hours` a number")
        name = request.match_info["name"]
        return web.json_response(await self._operations.enroll(name, address, hours))

    async def _retention(self, request: web.Request) -> web.Response:
        dry_run = (await _json_body(request)).get("dry_run", True)
        if not isinstance(dry_run, bool):
            raise UsageError(Code.USAGE, "`dry_run` must be true or false")
        name = request.match_info["name"]
        return web.json_response(await self._operations.retention(name, dry_run=dry_run))

    async def _switch_installation(self, request: web.Request) -> web.Response:
        body = await _json_body(request)
        version, within_seconds = body.get("to"), body.get("within_seconds", SWITCH_SECONDS)
        if not isinstance(version, str) or not isinstance(within_seconds, int | float):
            raise UsageError(Code.USAGE, "`to` must be text, `within_seconds` a number")
        name = request.match_info["name"]
        return web.json_response(
            await self._operations.switch_installation(name, version, within_seconds)
        )

    async def _accept(self, request: web.Request) -> web.Response:
        incarnation = _incarnation(await _json_body(request))
        if incarnation is None:
            raise UsageError(Code.USAGE, "`incarnation` is missing")
        return web.json_response(
            await self._operations.accept(request.match_info["name"], incarnation)
        )

    async def _forget(self, request: web.Request) -> web.Response:
        incarnation = _incarnation(await _json_body(request))
        return web.json_response(
            await self._operations.forget(request.match_info["name"], incarnation)
        )

    async def _promote(self, request: web.Request) -> web.StreamResponse:
        incarnation = _incarnation(await _json_body(request))
        name = request.match_info["name"]
        steps: asyncio.Queue[_Event | None] = asyncio.Queue()
        # A task of its own: the operator's terminal may go away, the promotion goes on.
        promotion = asyncio.create_task(
            self._operations.promote(
                name, lambda step, details: steps.put_nowait((step, details)), incarnation
            ),
            name=f"promote {name}",
        )
        self._promotions.add(promotion)
        promotion.add_done_callback(lambda _task: steps.put_nowait(None))
        promotion.add_done_callback(self._promotions.discard)
        first = await steps.get()
        if first is None and not promotion.cancelled() and promotion.exception() is not None:
            promotion.result()  # raises: nothing was done yet, a plain answer says why
        stream = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        try:
            await stream.prepare(request)
            event = first
            while event is not None:
                await _send_line(stream, {"step": event[0], "details": event[1]})
                event = await steps.get()
            await _send_line(stream, _outcome(promotion))
            await stream.write_eof()
        except ConnectionError:
            _log.warning("nobody reads the promotion's progress any more", instance=name)
            with contextlib.suppress(LogshipError):
                await asyncio.shield(promotion)
        return stream


def _incarnation(body: dict[str, Any]) -> Incarnation | None:
    text = body.get("incarnation")
    if text is None:
        return None
    if not isinstance(text, str):
        raise UsageError(Code.USAGE, "`incarnation` must be text")
    return parse_incarnation(text)


def listen(path: Path, group: str = "") -> socket.socket:
    """A listening unix socket at `path`, mode 0600, or 0660 with `group`.

    Replaces a socket that a dead applier left.  Raises LogshipError as ApiServer.start.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise UsageError(
            Code.SETTINGS,
            f"api.socket is {len(os.fsencode(path))} bytes long, {MAX_SOCKET_PATH_BYTES} at most",
            "choose a shorter path",
        )
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        # Nobody can connect before listen(), so there is no moment with wider permissions.
        path.chmod(0o600)
        if group:
            shutil.chown(path, group=grp.getgrnam(group).gr_gid)
            path.chmod(0o660)
        listener.listen(64)
        listener.setblocking(False)
    except (OSError, KeyError) as error:
        listener.close()
        why = f"there is no group {group!r}" if isinstance(error, KeyError) else error.strerror
        raise UsageError(
            Code.SETTINGS,
            f"the API can't listen on {path}: {why}",
            "check api.socket and api.group: its directory must exist and be writable",
        ) from error
    return listener


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise UsageError(
                Code.SETTINGS,
                f"{path} is there and is not a socket",
                "api.socket must not name a file of something else",
            )
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # it listens, whatever else is wrong: not ours to remove
    raise RefusedError(
        Code.SOCKET_IN_USE,
        f"another applier answers on {path}",
        "stop it first, or give this one its own api.socket and directory",
    )


@web.middleware
async def _errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except LogshipError as error:
        return web.json_response({"error": error.as_dict()}, status=status_of(error))
    except web.HTTPException as error:
        wrong = UsageError(
            Code.USAGE,
            f"{request.method} {request.path}: {error.reason}",
            "docs/api.md lists what the API answers",
        )
        return web.json_response({"error": wrong.as_dict()}, status=error.status)
    except Exception as error:
        _log.exception("an API request failed", path=request.path)
        return web.json_response(
            {"error": _internal(error).as_dict()}, status=HTTPStatus.INTERNAL_SERVER_ERROR
        )


def status_of(error: LogshipError) -> int:
    """The HTTP status that says what `error` says."""
    if error.code is Code.UNKNOWN_INSTANCE:
        return HTTPStatus.NOT_FOUND
    if isinstance(error, UsageError):
        return HTTPStatus.BAD_REQUEST
    if isinstance(error, RefusedError):
        return HTTPStatus.CONFLICT
    if error.retryable:
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.INTERNAL_SERVER_ERROR


def _outcome(promotion: asyncio.Task[dict[str, Any]]) -> dict[str, Any]:
    if promotion.cancelled():
        error: BaseException | None = LogshipError(Code.PROMOTE_FAILED, "the applier stops")
    else:
        error = promotion.exception()
    if error is None:
        return {"result": promotion.result()}
    if not isinstance(error, LogshipError):
        _log.error("a promotion failed unexpectedly", exc_info=error)
        error = _internal(error)
    return {"error": error.as_dict(), "status": int(status_of(error))}


def _internal(error: BaseException) -> LogshipError:
    return LogshipError(
        Code.INTERNAL, f"unexpected {type(error).__name__}", "the applier's log has the details"
    )


async def _json_body(request: web.Request) -> dict[str, Any]:
    text = await request.text()
    try:
        document = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UsageError(Code.USAGE, "the request's body is not a JSON object")
    return document


def _table(body: dict[str, Any], key: str) -> dict[str, Any]:
    table = body.get(key, {})
    if not isinstance(table, dict):
        raise UsageError(Code.USAGE, f"`{key}` must be an object")
    return table


def _flag(body: dict[str, Any], key: str) -> bool:
    flag = body.get(key, False)
    if not isinstance(flag, bool):
        raise UsageError(Code.USAGE, f"`{key}` must be true or false")
    return flag


async def _send_line(stream: web.StreamResponse, document: dict[str, Any]) -> None:
    await stream.write(json.dumps(document, default=str).encode() + b"\n")

"""A proxy in front of an S3 server: it counts requests, and plays the network's bad days.

Requests are signed for the proxy's address, and come to the server with their Host header as
it was, so their signatures hold.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

_FORWARD_SECONDS = 60.0
_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    "<Error><Code>{code}</Code><Message>The proxy says so.</Message></Error>"
)
_NOT_PASSED_ON = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive"})


class Operation(StrEnum):
    """What a request asks for."""

    PUT = "PUT"
    GET = "GET"
    HEAD = "HEAD"
    LIST = "LIST"
    DELETE = "DELETE"
    OTHER = "OTHER"


class Kind(StrEnum):
    """What goes wrong."""

    STALL = "stall"
    """Nothing is answered, and the server sees nothing, until `clear`; then it does."""
    STALL_IN_ANSWER = "stall-in-answer"
    """The same after half of the answer's body."""
    RESET = "reset"
    """The connection is reset before the server sees the request."""
    LOSE_ANSWER = "lose-answer"
    """The server does what was asked; then the connection is reset."""
    INTERNAL_ERROR = "500"
    SLOW_DOWN = "503"
    FORBIDDEN = "403"
    CONFLICT = "409"
    """A conditional request met another one."""
    TRUNCATE = "truncate"
    """Half of the answer's body, and then the connection is closed."""
    LIE_SHORT = "lie-short"
    """Content-Length is half of what the body has."""
    LIE_LONG = "lie-long"
    """Content-Length is more than the body has, and the connection stays open."""
    CORRUPT_UPLOAD = "corrupt-upload"
    """One bit of the request's body is another."""
    CORRUPT_ANSWER = "corrupt-answer"
    """One bit of the answer's body is another."""
    STRANGER = "stranger"
    """A web page answers, as in a hotel."""


_ERRORS = {
    Kind.INTERNAL_ERROR: (500, "InternalError"),
    Kind.SLOW_DOWN: (503, "SlowDown"),
    Kind.FORBIDDEN: (403, "AccessDenied"),
    Kind.CONFLICT: (409, "ConditionalRequestConflict"),
}


@dataclass
class Seen:
    """A request that came, and how it ended."""

    operation: Operation
    key: str
    """Without the bucket; "" for requests about the bucket as a whole."""
    status: int
    """0 if no answer was sent, or none yet."""
    at: float
    """`time.monotonic()`."""

    @property
    def name(self) -> str:
        """How `counts` calls it: the operation, for GET with what came of it."""
        if self.operation is not Operation.GET:
            return str(self.operation)
        outcome = {200: "hit", 206: "hit", 304: "unchanged", 404: "miss"}
        return f"GET {outcome.get(self.status, 'failed')}"


@dataclass
class _Fault:
    kind: Kind
    operation: Operation | None
    key_part: str
    times: int | None

    def takes(self, operation: Operation, key: str) -> bool:
        return (
            self.operation in (None, operation)
            and self.key_part in key
            and (self.times is None or self.times > 0)
        )


class _Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    length: int
    """What Content-Length says: of HEAD, other than the body's."""


class HttpProxy:
    """Listens on a free port of 127.0.0.1 and forwards to `endpoint_url`; a context manager.

    May be used from any thread.  `fault` makes requests go wrong, the oldest fault that fits
    first; `clear` ends all faults and lets go what stalls.  `away` closes every connection and
    each new one until `back`.
    """

    def __init__(self, endpoint_url: str) -> None:
        self._lock = threading.Lock()
        self._faults: list[_Fault] = []
        self._seen: list[Seen] = []
        self._connections: set[socket.socket] = set()
        self._passing = threading.Event()
        self._passing.set()
        self._away = False
        self._server = _Server(self, endpoint_url)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self.clear()
        self.away()
        self._server.server_close()  # waits for the threads of all connections

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- what goes wrong --------------------------------------------------------------------

    def fault(
        self,
        kind: Kind,
        operation: Operation | None = None,
        *,
        times: int | None = 1,
        key_part: str = "",
    ) -> None:
        """The next `times` requests for `operation` whose keys hold `key_part` go wrong.

        times: None for all of them until `clear`.
        """
        with self._lock:
            self._faults.append(_Fault(kind, operation, key_part, times))
            if kind in (Kind.STALL, Kind.STALL_IN_ANSWER):
                self._passing.clear()

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._faults.clear()
        self._passing.set()

    def away(self) -> None:
        with self._lock:
            self._away = True
            connections = list(self._connections)
        for each in connections:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def back(self) -> None:
        with self._lock:
            self._away = False

    # --- what was seen ----------------------------------------------------------------------

    def seen(self) -> list[Seen]:
        """All requests since the start, or since `forget`."""
        with self._lock:
            return list(self._seen)

    def counts(self) -> Counter[str]:
        """How many there were: PUT, HEAD, LIST, DELETE, OTHER, and GET hit, miss, unchanged
        and failed."""
        return Counter(each.name for each in self.seen())

    def forget(self) -> None:
        with self._lock:
            self._seen.clear()

    # --- for the connections' threads -------------------------------------------------------

    def kind_for(self, operation: Operation, key: str) -> Kind | None:
        with self._lock:
            for each in self._faults:
                if each.takes(operation, key):
                    if each.times is not None:
                        each.times -= 1
                    return each.kind
        return None

    def arrived(self, operation: Operation, key: str) -> Seen:
        """The record of a request, whose status is to be filled in."""
        record = Seen(operation, key, 0, time.monotonic())
        with self._lock:
            self._seen.append(record)
        return record

    def wait_until_passing(self) -> None:
        self._passing.wait()

    @contextlib.contextmanager
    def connected(self, connection: socket.socket) -> Iterator[bool]:
        """Whether it may stay."""
        with self._lock:
            self._connections.add(connection)
            away = self._away
        try:
            yield not away
        finally:
            with self._lock:
                self._connections.discard(connection)


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128
    """Connections that may wait to be accepted.  One that finds no room waits for a second."""

    def __init__(self, proxy: HttpProxy, endpoint_url: str) -> None:
        self.proxy = proxy
        self.target = urlsplit(endpoint_url).netloc
        super().__init__(("127.0.0.1", 0), _Connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """The client went away: that is its right."""


class _Connection(BaseHTTPRequestHandler):
    """One connection of a client, and one to the server behind it."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def handle(self) -> None:
        self._far = http.client.HTTPConnection(self.server.target, timeout=_FORWARD_SECONDS)
        with self.server.proxy.connected(self.connection) as stays, contextlib.closing(self._far):
            if stays:
                super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        operation, key = _asked(self.command, self.path)
        kind = proxy.kind_for(operation, key)
        record = proxy.arrived(operation, key)
        if kind is Kind.STALL:
            proxy.wait_until_passing()
        if kind is Kind.RESET:
            self._reset()
            return
        if kind is Kind.CORRUPT_UPLOAD:
            body = _with_another_bit(body)
        answer = _made_up(kind) or self._forwarded(body)
        if kind is Kind.LOSE_ANSWER:
            self._reset()
            return
        record.status = answer.status
        self._send(answer, kind)

    def _forwarded(self, body: bytes) -> _Answer:
        far = self._far
        far.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection"):  # neither is signed
                far.putheader(name, value)
        far.endheaders(body or None)
        response = far.getresponse()
        data = response.read()
        length = int(response.headers.get("Content-Length") or len(data))
        headers = [
            (name, value)
            for name, value in response.headers.items()
            if name.lower() not in _NOT_PASSED_ON
        ]
        return _Answer(response.status, headers, data, length)

    def _send(self, answer: _Answer, kind: Kind | None) -> None:
        body, length = answer.body, answer.length
        half = len(body) // 2
        if kind is Kind.LIE_SHORT:
            length = half
        elif kind is Kind.LIE_LONG:
            length += 1000
        elif kind is Kind.CORRUPT_ANSWER:
            body = _with_another_bit(body)
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if kind is Kind.TRUNCATE:
            body = body[:half]
            self.close_connection = True
        if kind is Kind.STALL_IN_ANSWER:
            self.wfile.write(body[:half])
            self.server.proxy.wait_until_passing()
            body = body[half:]
        self.wfile.write(body)

    def _reset(self) -> None:
        # Lingering for no time at all: close(2) sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def _asked(method: str, path: str) -> tuple[Operation, str]:
    """(operation, key) of a request in path style."""
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    _, _, key = unquote(parts.path).removeprefix("/").partition("/")
    if method == "GET" and not key:
        return (Operation.LIST if "list-type" in query else Operation.OTHER), ""
    if (method == "POST" and "delete" in query) or method == "DELETE":
        return Operation.DELETE, key
    if method in ("PUT", "GET", "HEAD") and key:
        return Operation(method), key
    return Operation.OTHER, key


def _made_up(kind: Kind | None) -> _Answer | None:
    """The answer that the server is not asked for."""
    if kind is Kind.STRANGER:
        page = b"<html><body>Welcome! Please sign in to use the network.</body></html>"
        return _Answer(200, [("Content-Type", "text/html")], page, len(page))
    if kind in _ERRORS:
        status, code = _ERRORS[kind]
        body = _ERROR.format(code=code).encode()
        return _Answer(status, [("Content-Type", "application/xml")], body, len(body))
    return None


def _with_another_bit(body: bytes) -> bytes:
    if not body:
        return body
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]

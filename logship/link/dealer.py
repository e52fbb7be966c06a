"""The shipper's transport: bytes and one connection, no protocol.

Which of the three things that can be wrong with a connection is wrong (nobody there, their
key, our key) is read from libzmq's monitor events; each was seen from libzmq 4.3.5:

    nobody listens       CLOSED, without CONNECTED
    server's key wrong   CONNECTED, HANDSHAKE_FAILED_NO_DETAIL (it hangs up without a word)
    our key not allowed  CONNECTED, HANDSHAKE_FAILED_AUTH with the ZAP status
    not CURVE            CONNECTED, HANDSHAKE_FAILED_PROTOCOL
"""

from __future__ import annotations

import asyncio
import socket as sockets
from collections.abc import Callable, Sequence

import zmq
from zmq.utils.monitor import parse_monitor_message

from logship.errors import Code, LogshipError
from logship.frames import Payload
from logship.link.keys import KeyPair
from logship.link.pump import Pump, configure, contents, send_now
from logship.settings_network import parse_tcp_endpoint


class KeyDeniedError(LogshipError):
    """LINK_AUTHENTICATION: an applier is there, it proved its key, and it does not know ours."""


class Dealer:
    """The shipper's transport: one connection, used once.

    on_message gets the parts of each message: bytes, or for large parts a read-only
    memoryview of libzmq's own buffer, valid as long as it is referenced.
    on_closed is called at most once, when an established connection ends by itself; nothing
    is called after `close`.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        server_public_key: str,
        keys: KeyPair,
        on_message: Callable[[list[Payload]], None],
        on_closed: Callable[[LogshipError], None],
    ) -> None:
        """endpoint: `tcp://HOST:PORT`, an IPv6 address in brackets.  Raises
        LogshipError(SETTINGS) if it is not."""
        self.endpoint = endpoint
        try:
            self._host, self._port = parse_tcp_endpoint(endpoint)
        except ValueError as error:
            raise LogshipError(
                Code.SETTINGS,
                f"{endpoint!r} is no address to connect to",
                "write tcp://HOST:PORT, an IPv6 address in brackets",
            ) from error
        self._server_public_key = server_public_key
        self._keys = keys
        self._on_message = on_message
        self._on_closed = on_closed
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._pump: Pump | None = None
        self._monitor_pump: Pump | None = None
        self._outcome: asyncio.Future[LogshipError | None] | None = None
        self._established = False

    async def connect(self, timeout_seconds: float) -> None:
        """Connect and finish the key exchange; afterwards `send` may be called.

        Raises LogshipError, with everything closed again: APPLIER_UNREACHABLE (name or
        address, nobody listening, no answer in time), LINK_AUTHENTICATION (the hint says
        whose key is wrong).  Each address of the host is tried.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        error: LogshipError | None = None
        try:
            async with asyncio.timeout_at(deadline):
                for address in await self._resolve():
                    error = await self._attempt(address)
                    if error is None:
                        return
        except TimeoutError:
            error = _unreachable(self.endpoint, f"did not answer within {timeout_seconds:g} s")
        finally:
            if not self._established:
                self.close()
        raise error or _unreachable(self.endpoint, "has no address")

    async def _resolve(self) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=sockets.SOCK_STREAM)
        except OSError as error:
            raise _unreachable(
                self.endpoint, f"can't be found: {error.strerror or error}"
            ) from error
        hosts = dict.fromkeys(str(info[4][0]) for info in found)
        return [
            f"tcp://[{host}]:{self._port}" if ":" in host else f"tcp://{host}:{self._port}"
            for host in hosts
        ]

    async def _attempt(self, address: str) -> LogshipError | None:
        self._release(linger_seconds=0)
        self._outcome = asyncio.get_running_loop().create_future()
        self._context = zmq.Context()
        self._socket = socket = self._context.socket(zmq.DEALER)
        configure(socket)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, self._server_public_key)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, self._keys.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self._keys.secret)
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_CONNECTED
            | zmq.EVENT_CLOSED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        self._monitor_pump = Pump(self._monitor, self._on_monitor)
        self._pump = Pump(socket, self._deliver)
        socket.connect(address)
        return await self._outcome

    def send(self, parts: Sequence[Payload]) -> None:
        """Queue one message; libzmq's I/O thread writes it at once.  The parts are copied: their
        buffers are the caller's again when this returns.

        There is no limit on queued messages (ZMQ_SNDHWM 0): the sessions' byte windows bound
        them, and a limit would turn into EAGAIN in mid-stream.

        Raises LogshipError(LINK_LOST) if there is no connection (any more); on_closed tells
        the same.
        """
        if self._socket is None or self._pump is None:
            raise _lost(self.endpoint)
        try:
            send_now(self._socket, parts)
        except zmq.ZMQError as error:
            raise _lost(self.endpoint) from error
        self._pump.after_send()

    def close(self) -> None:
        """Close at once, dropping what was not written yet.  Idempotent."""
        self._established = False
        self._release(linger_seconds=0)

    async def finish(self, linger_seconds: float = 1.0) -> None:
        """Close after what was sent is on its way (a bye), or after `linger_seconds`."""
        self._established = False
        context = self._release(linger_seconds=linger_seconds, terminate=False)
        if context is not None:
            await asyncio.to_thread(context.term)

    def _release(
        self, *, linger_seconds: float, terminate: bool = True
    ) -> zmq.Context[zmq.Socket[bytes]] | None:
        for pump in (self._pump, self._monitor_pump):
            if pump is not None:
                pump.stop()
        self._pump = self._monitor_pump = None
        if self._socket is not None:
            self._socket.disable_monitor()
            self._socket.close(linger=int(linger_seconds * 1000))
            self._socket = None
        if self._monitor is not None:
            self._monitor.close(linger=0)
            self._monitor = None
        if self._outcome is not None:
            self._outcome.cancel()
            self._outcome = None
        context, self._context = self._context, None
        if context is not None and terminate:
            context.term()
        return context

    def _deliver(self, frames: list[zmq.Frame]) -> None:
        self._on_message(contents(frames))

    def _on_monitor(self, frames: list[zmq.Frame]) -> None:
        report = parse_monitor_message([frame.bytes for frame in frames])
        event, value = report["event"], report["value"]
        if event == zmq.EVENT_CONNECTED:
            return
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._established = True
            self._settle(None)
        elif self._established:
            self._end()
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._settle(_denied(self.endpoint, self._keys.public, value))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._settle(_not_an_applier(self.endpoint))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._settle(_wrong_server_key(self.endpoint, self._server_public_key))
        else:
            self._settle(_unreachable(self.endpoint, "does not accept connections"))

    def _settle(self, outcome: LogshipError | None) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(outcome)

    def _end(self) -> None:
        if self._pump is not None:
            self._pump.drain()  # a refusal may have come just before the end
        if self._established:
            self.close()
            self._on_closed(_lost(self.endpoint))


def _unreachable(endpoint: str, why: str) -> LogshipError:
    return LogshipError(
        Code.APPLIER_UNREACHABLE,
        f"the applier at {endpoint} {why}",
        "check that the applier runs, its `listen` setting, and the firewall between",
        retryable=True,
    )


def _lost(endpoint: str) -> LogshipError:
    return LogshipError(
        Code.LINK_LOST,
        f"the connection to the applier at {endpoint} ended",
        "it will be tried again; check the applier's log",
        retryable=True,
    )


def _denied(endpoint: str, public_key: str, status: int) -> LogshipError:
    return KeyDeniedError(
        Code.LINK_AUTHENTICATION,
        f"the applier at {endpoint} does not know our key {public_key} (status {status})",
        "on the recovery server: applier list shows whether the instance is there; applier add, "
        "or applier change, NAME --public-key-file takes this public key",
    )


def _wrong_server_key(endpoint: str, server_public_key: str) -> LogshipError:
    # The server can't read our first message and hangs up without a word; so does a proxy
    # whose backend is down, hence retryable.
    return LogshipError(
        Code.LINK_AUTHENTICATION,
        f"{endpoint} hung up during the key exchange: most likely {server_public_key} is not "
        "the applier's public key",
        "compare the applier's public key in the shipper's settings with the .pub file on the "
        "applier's host; if they agree, look for a proxy in between",
        retryable=True,
    )


def _not_an_applier(endpoint: str) -> LogshipError:
    return LogshipError(
        Code.LINK_AUTHENTICATION,
        f"what listens at {endpoint} does not speak ZeroMQ with CURVE",
        "check host and port: something other than an applier answers there",
    )

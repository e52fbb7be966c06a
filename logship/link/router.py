"""The applier's transport: one socket for all shippers, and who may connect (ZAP).

Queues: the receive queue holds _RECEIVE_MESSAGES per peer; when it is full libzmq stops
reading that peer's TCP connection and nothing is dropped.  The send queue carries acks only:
a peer that lets _SEND_MESSAGES of them pile up is as good as gone.
"""

from __future__ import annotations

import asyncio
import errno
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import zmq
from zmq.utils import z85

from logship.errors import Code, LogshipError
from logship.frames import Payload
from logship.link.keys import KeyPair
from logship.link.pump import Pump, configure, contents, send_now

_RECEIVE_MESSAGES: Final = 64
_SEND_MESSAGES: Final = 10_000
_DROPPED_PEERS: Final = 4096
_WAITING_CONNECTIONS: Final = 1024
"""After a restart all shippers come at once."""
_ZAP_DOMAIN: Final = b"logship"
_ZAP_PARTS: Final = 7

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """One connection to a Router."""

    routing_id: bytes
    public_key: str
    """z85 text; proven by the handshake, so who it is may be decided by it."""
    address: str


class Router:
    """The applier's transport: one socket for all shippers.

    on_message gets (peer, parts); parts as with Dealer.
    on_gone is called at most once a peer, when a send finds it disconnected (a session's
    heartbeats see to it that this is tried); a peer that only falls silent is the session's
    to notice.
    on_denied gets (public key, address) of each connection refused for its key.
    """

    def __init__(
        self,
        *,
        keys: KeyPair,
        allowed_public_keys: Iterable[str],
        on_message: Callable[[Peer, list[Payload]], None],
        on_gone: Callable[[Peer], None],
        on_denied: Callable[[str, str], None] | None = None,
        may_join: Callable[[str], bool] | None = None,
    ) -> None:
        """Needs a running loop.  Listens only after `bind`.

        may_join: asked about a public key that is not allowed; those it knows may connect too.
        """
        self._on_message = on_message
        self._on_gone = on_gone
        self._on_denied = on_denied
        self._may_join = may_join
        self._allowed = frozenset(allowed_public_keys)
        self._peers: dict[bytes, Peer] = {}
        self._dropped: OrderedDict[bytes, None] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        # A context of its own: the ZAP handler's name is one per context.
        self._context: zmq.Context[zmq.Socket[bytes]] | None = zmq.Context()
        self._zap = self._context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind("inproc://zeromq.zap.01")
        self._socket = socket = self._context.socket(zmq.ROUTER)
        configure(socket)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.RCVHWM, _RECEIVE_MESSAGES)
        socket.setsockopt(zmq.SNDHWM, _SEND_MESSAGES)
        socket.setsockopt(zmq.BACKLOG, _WAITING_CONNECTIONS)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, _ZAP_DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._zap_pump = Pump(self._zap, self._on_zap, max_parts=_ZAP_PARTS)
        self._pump = Pump(socket, self._deliver)

    def bind(self, endpoint: str) -> str:
        """Listen at `tcp://ADDRESS:PORT` (`*` or `[::]`: all addresses of both families; port
        0: any).  Returns the endpoint in effect.  Raises LogshipError(SETTINGS)."""
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise LogshipError(
                Code.SETTINGS,
                f"can't listen at {endpoint}: {error.strerror}",
                "check that the address is this host's and that nothing else uses the port"
                if error.errno == errno.EADDRINUSE or error.errno == errno.EADDRNOTAVAIL
                else "write it as tcp://ADDRESS:PORT",
            ) from error
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def allow(self, public_keys: Iterable[str]) -> None:
        """Who may connect from now on.  Connections that stand are the caller's to refuse."""
        self._allowed = frozenset(public_keys)

    def send(self, peer: Peer, parts: Sequence[Payload]) -> None:
        """Queue one message for `peer`.  If it is gone, on_gone is called soon."""
        if self._context is None or peer.routing_id in self._dropped:
            return
        try:
            send_now(self._socket, (peer.routing_id, *parts))
        except zmq.ZMQError as error:
            # EHOSTUNREACH: disconnected.  EAGAIN: it has not read for ages.
            if error.errno not in (errno.EHOSTUNREACH, errno.EAGAIN):
                raise
            self.drop(peer)
            self._loop.call_soon(self._on_gone, peer)
        self._pump.after_send()

    def drop(self, peer: Peer) -> None:
        """Ignore whatever else comes from `peer`: its session is over.  (A ROUTER can't close
        one connection; the peer does, being told why.)"""
        self._peers.pop(peer.routing_id, None)
        self._dropped[peer.routing_id] = None
        while len(self._dropped) > _DROPPED_PEERS:
            self._dropped.popitem(last=False)

    def close(self) -> None:
        """Close at once, dropping what was not written yet.  Idempotent."""
        context = self._release(linger_seconds=0)
        if context is not None:
            context.term()

    async def finish(self, linger_seconds: float = 1.0) -> None:
        """Close after what was sent is on its way, or after `linger_seconds`."""
        context = self._release(linger_seconds=linger_seconds)
        if context is not None:
            await asyncio.to_thread(context.term)

    def _release(self, *, linger_seconds: float) -> zmq.Context[zmq.Socket[bytes]] | None:
        context, self._context = self._context, None
        if context is not None:
            self._pump.stop()
            self._zap_pump.stop()
            self._socket.close(linger=int(linger_seconds * 1000))
            self._zap.close(linger=0)
        return context

    def _deliver(self, frames: list[zmq.Frame]) -> None:
        routing_id = frames[0].bytes
        if routing_id in self._dropped or len(frames) < 2:
            return
        public_key = str(frames[1].get("User-Id"))
        peer = self._peers.get(routing_id)
        if peer is None:
            peer = Peer(routing_id, public_key, _plain(str(frames[1].get("Peer-Address"))))
            self._peers[routing_id] = peer
        elif peer.public_key != public_key:
            # A client may choose its routing id: this one took that of a peer that is gone.
            _log.warning("a connection took another's id", key=public_key, was=peer.public_key)
            self.drop(peer)
            self._loop.call_soon(self._on_gone, peer)
            return
        self._on_message(peer, contents(frames[1:]))

    def _knows(self, public_key: str) -> bool:
        if public_key in self._allowed:
            return True
        return bool(public_key) and self._may_join is not None and self._may_join(public_key)

    def _on_zap(self, frames: list[zmq.Frame]) -> None:
        # ZAP 1.0, https://rfc.zeromq.org/spec/27/: version, request id, domain, address,
        # identity, mechanism, credentials (CURVE: the client's public key, 32 bytes).
        request = [frame.bytes for frame in frames]
        request_id, address, public_key = b"", "", ""
        if len(request) >= 2:
            request_id = request[1]
        if len(request) == _ZAP_PARTS and request[5] == b"CURVE" and len(request[6]) == 32:
            address = _plain(request[3].decode("ascii", "replace"))
            public_key = z85.encode(request[6]).decode("ascii")
        known = self._knows(public_key)
        status, text, user = (b"200", b"OK", public_key) if known else (b"400", b"no", "")
        self._zap.send_multipart([b"1.0", request_id, status, text, user.encode(), b""])
        self._zap_pump.after_send()
        if not known:
            _log.warning("connection refused, key not known", key=public_key, address=address)
            if self._on_denied is not None:
                self._on_denied(public_key, address)


def _plain(address: str) -> str:
    """An IPv4 address as people write it: a socket for both families sees ::ffff:192.0.2.1."""
    return address.removeprefix("::ffff:") if "." in address else address

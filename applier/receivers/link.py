"""Receiver `link`: one ROUTER for all instances, and one `Connection` for each shipper."""

from __future__ import annotations

from collections.abc import Mapping

from applier.receivers import Intake
from applier.receivers.joining import Joining, Registrar
from applier.receivers.link_connection import Connection
from logship.frames import Payload
from logship.link.instances import Instances
from logship.link.keys import KeyPair
from logship.link.transport import Peer, Router


class LinkReceiver:
    """Feeds the intakes of all instances from one listening socket.

    intakes: by instance name; looked into when a shipper comes, so that others may be added.
    allowed: public key (z85 text) to the instances it may ship.
    registrar: who knows the tokens with which new shippers join; None: nobody joins.
    """

    def __init__(
        self,
        intakes: Mapping[str, Intake],
        allowed: Mapping[str, frozenset[str]],
        *,
        keys: KeyPair,
        window_bytes: int,
        heartbeat_seconds: float,
        registrar: Registrar | None = None,
    ) -> None:
        self.intakes = intakes
        self._allowed = dict(allowed)
        self.window_bytes = window_bytes
        self.heartbeat_seconds = heartbeat_seconds
        self.instances: Instances[bytes] = Instances(allowed)
        self.router = Router(
            keys=keys,
            allowed_public_keys=allowed,
            on_message=self._received,
            on_gone=self._gone,
            may_join=registrar.may_join if registrar is not None else None,
        )
        self._joining = (
            Joining(registrar, self.router.send, self.router.drop)
            if registrar is not None
            else None
        )
        self._connections: dict[bytes, Connection] = {}

    def start(self, listen: str) -> str:
        """Listen at `tcp://ADDRESS:PORT`; returns the endpoint in effect (port 0: any).

        Raises LogshipError(SETTINGS) when the address can't be had.
        """
        return self.router.bind(listen)

    async def stop(self) -> None:
        """Stop listening and forget all connections; their shippers will come again."""
        for connection in list(self._connections.values()):
            await connection.end("the applier stops")
        if self._joining is not None:
            await self._joining.stop()
        self.router.close()

    def allow(self, public_key: str, names: frozenset[str]) -> None:
        """From now on the shipper that has this key may ship `names`, and no others.

        Sessions of what it may not ship any more are refused and end.
        """
        self._allow({**self._allowed, public_key: names})

    def forbid(self, public_key: str) -> None:
        """Nobody with this key may connect any more; a session that there is is refused."""
        self._allow({key: names for key, names in self._allowed.items() if key != public_key})

    def _allow(self, allowed: dict[str, frozenset[str]]) -> None:
        self._allowed = allowed
        self.router.allow(allowed)
        for routing_id, error in self.instances.allow(allowed):
            connection = self._connections.get(routing_id)
            if connection is not None:
                connection.refuse(error)

    def _received(self, peer: Peer, parts: list[Payload]) -> None:
        connection = self._connections.get(peer.routing_id)
        if connection is None:
            if self._joining is not None and self._joining.takes(peer):
                self._joining.received(peer, parts)
                return
            connection = self._connections[peer.routing_id] = Connection(self, peer)
        connection.received(parts)

    def _gone(self, peer: Peer) -> None:
        connection = self._connections.get(peer.routing_id)
        if connection is not None:
            connection.transport_lost("the shipper's connection ended")

    def connection(self, routing_id: bytes) -> Connection | None:
        return self._connections.get(routing_id)

    def forget(self, peer: Peer) -> None:
        self._connections.pop(peer.routing_id, None)
        self.instances.release(peer.routing_id)
        self.router.drop(peer)

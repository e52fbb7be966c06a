"""Connections that hold a join token's key: each brings one `Join`, gets one answer, and ends.

They share the link's port with the shippers, and nothing else: no session is made for them, so
they can neither greet nor ship.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from logship.errors import Code, LogshipError
from logship.frames import (
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    Frame,
    Join,
    Joined,
    Payload,
    decode_join,
    encode,
    peek_versions,
)
from logship.link.refusals import refusal, version_mismatch
from logship.link.transport import Peer
from logship.settings_network import is_public_key

_log = structlog.get_logger(__name__)


class Registrar(Protocol):
    """Who knows the tokens."""

    @property
    def is_open(self) -> bool:
        """Whether a token is out with which somebody may come."""
        ...

    def may_join(self, public_key: str) -> bool:
        """Whether this is the key of a token that is remembered, good any more or not.

        Called for each unknown key that knocks: must not block.
        """
        ...

    async def join(self, token_key: str, join: Join, address: str) -> Joined:
        """Register the instance of the token whose public key is `token_key`.

        Raises LogshipError to refuse with; nothing is registered then.
        """
        ...


class Joining:
    """All joining connections of one listening socket.

    send, drop: of the Router.
    """

    def __init__(
        self,
        registrar: Registrar,
        send: Callable[[Peer, list[Payload]], None],
        drop: Callable[[Peer], None],
    ) -> None:
        self._registrar = registrar
        self._send = send
        self._drop = drop
        self._answering: dict[bytes, asyncio.Task[None]] = {}

    def takes(self, peer: Peer) -> bool:
        """Whether the connection is one of ours."""
        return self._registrar.may_join(peer.public_key)

    def received(self, peer: Peer, parts: list[Payload]) -> None:
        """A message of such a connection.  What comes behind the first is not looked at."""
        if peer.routing_id not in self._answering:
            task = asyncio.create_task(self._answer(peer, parts))
            self._answering[peer.routing_id] = task
            task.add_done_callback(lambda _: self._answering.pop(peer.routing_id, None))

    async def stop(self) -> None:
        """Wait for what is being registered: half of it is no use to anybody."""
        while self._answering:
            await asyncio.wait(self._answering.values())

    async def _answer(self, peer: Peer, parts: list[Payload]) -> None:
        answer: Frame
        try:
            answer = await self._registrar.join(peer.public_key, read_join(parts), peer.address)
        except LogshipError as error:
            _log.warning("refused to let a shipper join", address=peer.address, **error.as_dict())
            answer = refusal(error)
        except Exception as error:
            _log.error("a bug while a shipper joined", exc_info=error)
            answer = refusal(_bug(error))
        self._send(peer, encode(answer))
        self._drop(peer)


def read_join(parts: list[Payload]) -> Join:
    """The join that these message parts are.

    Raises LogshipError: BAD_FRAME, CHECKSUM_MISMATCH, VERSION_MISMATCH.
    """
    ours = (OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION)
    try:
        join = decode_join(parts)
    except LogshipError as error:
        theirs = peek_versions(parts[0]) if parts else None
        raise (version_mismatch(theirs, ours) if theirs else None) or error from error
    mismatch = version_mismatch((join.version_min, join.version_max), ours)
    if mismatch is not None:
        raise mismatch
    if not is_public_key(join.public_key):
        raise LogshipError(
            Code.BAD_FRAME,
            "the shipper's public key is none",
            "check that both sides run versions of Logship that may talk",
        )
    return join


def _bug(error: Exception) -> LogshipError:
    return LogshipError(
        Code.INTERNAL,
        f"the applier failed: {type(error).__name__}",
        "its log has the details; please report them",
        retryable=True,
    )

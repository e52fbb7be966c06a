"""The road between the sites: what ZeroMQ over TCP shows of it, good and bad.

A connection keeps the order of its messages and loses none until it is cut; then both ends'
undelivered messages are gone, and each end learns of it as libzmq tells it: the DEALER by an
event, the ROUTER when it next sends.  While a direction is partitioned its messages wait, as
TCP would send them again.  `Abuse` breaks these rules message by message: CURVE rules that out
in real life, the sessions must bear it all the same.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from random import Random
from typing import Any

from logship.errors import Code, LogshipError
from logship.link.transport import Peer
from tests.simulation.loop import PROCESS, Process, SimLoop

Parts = list[Any]

_PROFILE = b"profilechanged"
"""A changed profile is never lost or overtaken, not even by `Abuse`: nothing would tell."""


@dataclass
class Abuse:
    """Probabilities for each message."""

    drop: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0


class Direction:
    """One way of one connection."""

    def __init__(self, network: Network, name: str, deliver: Callable[[Parts], None]) -> None:
        self._network = network
        self._name = name
        self._deliver = deliver
        self._waiting: deque[Parts] = deque()
        self._last_at = 0.0
        self.context: Context = copy_context()
        self.open = True
        self._barrier: Parts | None = None

    def send(self, parts: Sequence[Any]) -> None:
        message = [bytes(part) for part in parts]
        random, abuse = self._network.random, self._network.abuse
        copies = 1
        if _PROFILE in message[0]:
            self._barrier = message
        elif abuse is not None:
            if random.random() < abuse.drop:
                return
            if random.random() < abuse.repeat:
                copies = 2
            if random.random() < abuse.corrupt:
                _flip_a_bit(message, random)
        for _ in range(copies):
            if self._network.is_partitioned(self._name):
                self._waiting.append(message)
            else:
                self._fly(message)

    def _fly(self, message: Parts) -> None:
        network = self._network
        at = network.loop.now + network.latency_seconds()
        abuse = network.abuse
        may_overtake = self._barrier is None and abuse is not None
        if abuse is None or not may_overtake or network.random.random() >= abuse.reorder:
            at = self._last_at = max(at, self._last_at)
        network.loop.call_at(at, self._arrive, message, context=self.context)

    def _arrive(self, message: Parts) -> None:
        if message is self._barrier:
            self._barrier = None
        if not self.open:
            return
        if self._network.is_partitioned(self._name):
            self._waiting.append(message)
        else:
            self._deliver(message)

    def healed(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        if self.open:
            for message in waiting:
                self._fly(message)

    def close(self, after: float) -> None:
        """Nothing sent later than now arrives; what flies may, until `after` from now."""
        if after <= 0:
            self.open = False
        else:
            loop = self._network.loop
            loop.at(loop.now + after, setattr, self, "open", False)


def _flip_a_bit(message: Parts, random: Random) -> None:
    index = random.randrange(len(message))
    part = bytearray(message[index])
    if part:
        bit = random.randrange(len(part) * 8)
        part[bit // 8] ^= 1 << bit % 8
        message[index] = bytes(part)


class Wire:
    """One TCP connection of a dealer to the router."""

    def __init__(self, network: Network, dealer: SimDealer, router: SimRouter, peer: Peer) -> None:
        self.site = dealer.site
        self.peer = peer
        self.dealer = dealer
        self.router = router
        self.shipper = PROCESS.get()
        self.to_applier = Direction(network, f"{self.site}>", lambda m: router.deliver(self, m))
        self.to_shipper = Direction(network, f"{self.site}<", dealer.deliver)
        self.to_applier.context = router.context
        self.to_shipper.context = dealer.context
        self.router_sees = True
        """Whether the ROUTER still takes the peer for connected."""

    @property
    def directions(self) -> tuple[Direction, Direction]:
        return self.to_applier, self.to_shipper


class Network:
    """All connections between the shippers' sites and the recovery server."""

    def __init__(self, loop: SimLoop, random: Random) -> None:
        self.loop = loop
        self.random = random
        self.abuse: Abuse | None = None
        self.slow_factor = 1.0
        self.router: SimRouter | None = None
        self.wires: list[Wire] = []
        self.on_ack: Callable[[Wire, Any], None] = lambda wire, parts: None
        self._partitioned: set[str] = set()
        self._peers = itertools.count(1)

    def latency_seconds(self) -> float:
        return self.slow_factor * (0.0005 + 0.01 * self.random.random() ** 3)

    # --- faults -----------------------------------------------------------------------------

    def is_partitioned(self, direction: str) -> bool:
        return direction in self._partitioned

    def partition(self, directions: Sequence[str]) -> None:
        self._partitioned.update(directions)

    def heal(self, directions: Sequence[str] | None = None) -> None:
        self._partitioned.difference_update(self._partitioned if directions is None else directions)
        if directions is None:
            self._partitioned.clear()
        for wire in self.wires:
            for direction in wire.directions:
                if not self.is_partitioned(direction._name):
                    direction.healed()

    def cut(self, wire: Wire) -> None:
        """A reset on the way: both ends find out, unless their side is partitioned."""
        self._forget(wire)
        for direction in wire.directions:
            direction.close(0)
        self._tell_router(wire)
        self._tell_dealer(wire)

    def cut_process(self, process: Process) -> None:
        """A process died and its kernel resets its connections."""
        for wire in list(self.wires):
            if wire.shipper is process:
                self._forget(wire)
                self._close_from_shipper(wire, self.random.random() * 0.02)
            elif wire.router.process is process:
                self._forget(wire)
                wire.to_applier.close(0)
                wire.to_shipper.close(self.random.random() * 0.02)
                self._tell_dealer(wire)
        if self.router is not None and self.router.process is process:
            self.router = None

    def power_cut(self, process: Process) -> None:
        """A machine died: nobody says anything."""
        for wire in list(self.wires):
            if process in (wire.shipper, wire.router.process):
                self._forget(wire)
                for direction in wire.directions:
                    direction.close(0)
                if wire.router.process is process:
                    # The machine comes back and answers what it does not know with a reset.
                    wire.dealer.ends_at = self.loop.now + 2.0 + 8.0 * self.random.random()
                    self.loop.at(
                        wire.dealer.ends_at, wire.dealer.ended, context=wire.dealer.context
                    )
        if self.router is not None and self.router.process is process:
            self.router = None

    def _forget(self, wire: Wire) -> None:
        if wire in self.wires:
            self.wires.remove(wire)

    def _tell_router(self, wire: Wire) -> None:
        if not self.is_partitioned(f"{wire.site}>"):
            self.loop.at(
                self.loop.now + self.latency_seconds(), setattr, wire, "router_sees", False
            )

    def _tell_dealer(self, wire: Wire) -> None:
        if not self.is_partitioned(f"{wire.site}<"):
            at = self.loop.now + self.latency_seconds()
            self.loop.call_at(at, wire.dealer.ended, context=wire.dealer.context)

    def closed_by_dealer(self, wire: Wire, *, orderly: bool) -> None:
        if wire in self.wires:
            self._forget(wire)
            self._close_from_shipper(wire, 1.0 if orderly else self.random.random() * 0.02)

    def _close_from_shipper(self, wire: Wire, after: float) -> None:
        wire.to_shipper.close(0)
        wire.to_applier.close(after)
        at = self.loop.now + max(after, self.latency_seconds())
        if not self.is_partitioned(f"{wire.site}>"):
            self.loop.at(at, setattr, wire, "router_sees", False)

    # --- connecting -------------------------------------------------------------------------

    def connect(self, dealer: SimDealer) -> Wire | None:
        router = self.router
        ways = (f"{dealer.site}>", f"{dealer.site}<")
        if router is None or any(map(self.is_partitioned, ways)):
            return None
        peer = Peer(b"%d" % next(self._peers), dealer.public_key, dealer.site)
        wire = Wire(self, dealer, router, peer)
        router.wires[peer.routing_id] = wire
        self.wires.append(wire)
        return wire


NETWORK: dict[str, Network] = {}
"""The network of the simulation that runs, under "now"."""


class SimDealer:
    """`logship.link.transport.Dealer`.  `endpoint` is the shipper's site; its key too."""

    def __init__(
        self, endpoint: str, *, server_public_key: str, keys: Any, on_message: Any, on_closed: Any
    ) -> None:
        self.site = endpoint
        self.public_key = endpoint
        self.context = copy_context()
        self.ends_at = 0.0
        self._network = NETWORK["now"]
        self._on_message = on_message
        self._on_closed = on_closed
        self._wire: Wire | None = None
        self._closed = False

    async def connect(self, timeout_seconds: float) -> None:
        await asyncio.sleep(2 * self._network.latency_seconds())
        wire = self._network.connect(self)
        if wire is None:
            silent = self._network.router is not None
            await asyncio.sleep(timeout_seconds if silent else 0.001)
            raise LogshipError(Code.APPLIER_UNREACHABLE, "nobody answers", retryable=True)
        if self._closed:
            self._network.closed_by_dealer(wire, orderly=False)
            return
        self._wire = wire

    def send(self, parts: Sequence[Any]) -> None:
        if self._wire is None or self._closed:
            raise LogshipError(Code.LINK_LOST, "the connection ended", retryable=True)
        if self._wire in self._network.wires:
            self._wire.to_applier.send(parts)

    def deliver(self, message: Parts) -> None:
        if not self._closed:
            self._on_message(message)

    def ended(self) -> None:
        if not self._closed and self._wire is not None:
            self.close()
            self._on_closed(LogshipError(Code.LINK_LOST, "the connection ended", retryable=True))

    def close(self) -> None:
        self._closed = True
        if self._wire is not None:
            self._network.closed_by_dealer(self._wire, orderly=False)

    async def finish(self, linger_seconds: float = 1.0) -> None:
        self._closed = True
        if self._wire is not None:
            self._network.closed_by_dealer(self._wire, orderly=True)
        await asyncio.sleep(0.001)


class SimRouter:
    """`logship.link.transport.Router`."""

    def __init__(
        self,
        *,
        keys: Any,
        allowed_public_keys: Any,
        on_message: Any,
        on_gone: Any,
        on_denied: Any = None,
        may_join: Any = None,
    ) -> None:
        self.context = copy_context()
        self.process = PROCESS.get()
        self.wires: dict[bytes, Wire] = {}
        self._network = NETWORK["now"]
        self._on_message = on_message
        self._on_gone = on_gone
        self._dropped: set[bytes] = set()

    def bind(self, endpoint: str) -> str:
        self._network.router = self
        return endpoint

    def send(self, peer: Peer, parts: Sequence[Any]) -> None:
        if peer.routing_id in self._dropped:
            return
        wire = self.wires[peer.routing_id]
        self._network.on_ack(wire, parts)
        if not wire.router_sees:
            self.drop(peer)
            asyncio.get_running_loop().call_soon(self._on_gone, peer)
            return
        if wire in self._network.wires:
            wire.to_shipper.send(parts)

    def deliver(self, wire: Wire, message: Parts) -> None:
        if wire.peer.routing_id not in self._dropped:
            self._on_message(wire.peer, message)

    def drop(self, peer: Peer) -> None:
        self._dropped.add(peer.routing_id)

    def close(self) -> None:
        if self._network.router is self:
            self._network.router = None

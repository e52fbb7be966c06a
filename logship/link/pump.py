"""One ZeroMQ socket read on the asyncio loop, and the options all of ours have.

Plain pyzmq sockets read from `loop.add_reader`, not zmq.asyncio: no future and no task per
message.  A ZeroMQ socket's file descriptor is edge-triggered (zmq_getsockopt(3), ZMQ_FD): it
becomes readable when the socket's state *may* have changed, and any send or receive may take
that signal away.  Hence: read until EAGAIN, and look at ZMQ_EVENTS after each send.

Nothing here runs while idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import zmq

from logship.frames import MAX_PAYLOAD_BYTES, Payload

MAX_MESSAGE_BYTES: Final = MAX_PAYLOAD_BYTES + 1024
"""ZMQ_MAXMSGSIZE, per part; CURVE adds 33 bytes.  libzmq closes the connection on more,
before it allocates."""
MAX_MESSAGE_PARTS: Final = 3
"""Of a message that is worth keeping: at a ROUTER a peer's id, then a frame's one or two."""
_TURN_MESSAGES: Final = 64
_TURN_BYTES: Final = 4 * 1024 * 1024
"""What one turn of the event loop reads before others get theirs."""
_COPY_BELOW_BYTES: Final = 4096
_HANDSHAKE_SECONDS: Final = 10
# Plain numbers: an operation on two members of an enum takes as long as a whole send.
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK) | int(zmq.SNDMORE)


class Pump:
    """Reads one ZeroMQ socket on the running loop and hands over whole messages.

    Of a message of more than `max_parts` parts the first of those beyond it is handed over as
    well, so that who counts them sees it is no frame, and the rest is discarded as it is read.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        deliver: Callable[[list[zmq.Frame]], None],
        *,
        max_parts: int = MAX_MESSAGE_PARTS,
    ) -> None:
        self._socket = socket
        self._max_parts = max_parts
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        fd = int(socket.getsockopt(zmq.FD))
        self._fd: int | None = fd
        self._turn: asyncio.Handle | None = None
        self._is_reading = False
        self._loop.add_reader(fd, self._read)
        self._schedule()  # what arrived before the reader was added

    def after_send(self) -> None:
        """Must follow every send: it may have consumed the signal of a waiting message."""
        if self._turn is None and not self._is_reading and self._has_message():
            self._schedule()

    def _has_message(self) -> bool:
        # Cheaper than a receive that fails, and after a no the descriptor signals the next.
        return self._fd is not None and bool(int(self._socket.getsockopt(_EVENTS)) & _POLLIN)

    def stop(self) -> None:
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            self._fd = None
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def drain(self) -> None:
        """Hand over all that has arrived, without regard for others."""
        while self._has_message() and (frames := self._receive()) is not None:
            self._deliver(frames)

    def _schedule(self) -> None:
        if self._turn is None and self._fd is not None:
            self._turn = self._loop.call_soon(self._read)

    def _read(self) -> None:
        # What the first message after a silence has others do comes before a look for the next.
        limit = 1 if self._turn is None else _TURN_MESSAGES
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        size_bytes = 0
        self._is_reading = True
        try:
            while limit and size_bytes < _TURN_BYTES and self._has_message():
                limit -= 1
                frames = self._receive()
                if frames is not None:
                    size_bytes += sum(map(len, frames))
                    self._deliver(frames)
        finally:
            self._is_reading = False
            # Also when a callback raised: the descriptor will not signal what is left.
            if self._has_message():
                self._schedule()

    def _receive(self) -> list[zmq.Frame] | None:
        try:
            frame = self._socket.recv(_NOBLOCK, copy=False)
        except zmq.Again:
            return None
        frames = [frame]
        while frame.more:
            frame = self._socket.recv(copy=False)
            if len(frames) <= self._max_parts:
                frames.append(frame)
        return frames


def send_now(socket: zmq.Socket[bytes], parts: Sequence[Payload]) -> None:
    """Queue one message of at least one part, copied.  Raises zmq.ZMQError, with nothing sent."""
    *first, last = parts
    for part in first:
        socket.send(part, _MORE)
    socket.send(last, _NOBLOCK)


def contents(frames: Sequence[zmq.Frame]) -> list[Payload]:
    # A large part stays where libzmq received it; the memoryview keeps it alive.
    return [frame.bytes if len(frame) < _COPY_BELOW_BYTES else frame.buffer for frame in frames]


def configure(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_SECONDS * 1000)
    # The sessions' heartbeats find a dead peer first; this frees the sockets of peers that
    # no session speaks for any more.
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)

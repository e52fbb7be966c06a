"""Free TCP ports of this host for servers that are yet to be started."""

from __future__ import annotations

import socket

ADDRESS = "127.0.0.1"


class KeptPorts:
    """Ports of ADDRESS that nobody else is given until `close`, also while the server that has one
    is started again.

    They are bound, and nobody listens there.  A server can all the same, as it reuses addresses
    (SO_REUSEADDR, as all of ours do); only who asks for that very port without it can't.
    """

    def __init__(self) -> None:
        self._bound: list[socket.socket] = []

    def take(self) -> int:
        """Another one.  Raises OSError: there is none."""
        port = socket.socket()
        self._bound.append(port)
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind((ADDRESS, 0))
        return int(port.getsockname()[1])

    def close(self) -> None:
        """May be called twice."""
        while self._bound:
            self._bound.pop().close()

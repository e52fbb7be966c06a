"""Where a token leads, if nobody says it."""

from __future__ import annotations

import socket

from logship.errors import Code, UsageError
from logship.settings_network import parse_tcp_endpoint

_EVERYWHERE = ("*", "0.0.0.0", "::")


def own_address(listen: str) -> str:
    """The address of an applier that listens at `listen`, as others may know it.  Blocking: the
    host's name may be asked of a name server.

    Raises UsageError where this host has no name that means anything elsewhere.
    """
    host, port = parse_tcp_endpoint(listen)
    if host in _EVERYWHERE:
        host = socket.getfqdn()
        if host.partition(".")[0] == "localhost":
            raise UsageError(
                Code.USAGE,
                "this host has no name by which others reach it",
                "say how the primary's host does: --address tcp://HOST:PORT",
            )
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"

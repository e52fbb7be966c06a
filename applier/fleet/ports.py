"""A port for an instance that names none."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from collections.abc import Callable, Collection, Iterator

from logship.errors import Code, RefusedError

_RANGE = re.compile(r"\A([0-9]{1,5})-([0-9]{1,5})\Z")
_LARGEST = 65535


def parse_ports(text: str) -> range:
    """`5433-5499`, both ends included.  Raises ValueError."""
    match = _RANGE.match(text)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= first <= last <= _LARGEST:
        raise ValueError(f"{text!r} is no range of ports")
    return range(first, last + 1)


def check_ports(key: str, text: str) -> Iterator[tuple[str, str]]:
    """A `Check` of the settings: nothing if `text` is a range."""
    try:
        parse_ports(text)
    except ValueError:
        yield f"{key} must be FIRST-LAST, two ports from 1 to {_LARGEST}", 'for example "5433-5499"'


def allot_port(ports: range, taken: Collection[int], is_free: Callable[[int], bool]) -> int:
    """The first of `ports` that no instance has and that `is_free` on this host.

    Raises RefusedError(PORT_TAKEN): there is none.
    """
    for port in ports:
        if port not in taken and is_free(port):
            return port
    raise RefusedError(
        Code.PORT_TAKEN,
        f"no port from {ports[0]} to {ports[-1]} is free",
        "widen fleet.ports in the applier's settings, or name a port",
    )


def is_port_free(port: int) -> bool:
    """Whether a server could listen on it now, at every address of the host."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with contextlib.ExitStack() as stack:
            try:
                probe = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            except OSError:
                continue  # a host without this family
            # As servers do: what is left of closed connections is not in the way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((address, port))
                probe.listen(1)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    return False
    return True

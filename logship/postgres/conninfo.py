"""Which servers a libpq connection string means, in the order to try them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Mapping

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from logship.errors import Code, LogshipError
from logship.postgres.server_errors import one_line


def parse_conninfo(conninfo: str) -> dict[str, str]:
    """What stands in the string itself.  Raises SETTINGS, never quoting a piece of it."""
    try:
        options = pq.Conninfo.parse(conninfo.encode())
    except psycopg.Error as error:
        # libpq quotes the part it stumbled over, which may be a piece of a password.
        said = one_line(str(error)).split('"')
        raise LogshipError(
            Code.SETTINGS,
            f"the connection string can't be read: {'(…)'.join(said[::2])}",
            "write key=value pairs or a postgresql:// URI; quote values that have spaces",
        ) from None
    return {o.keyword.decode(): o.val.decode() for o in options if o.val is not None}


def effective_options(given: Mapping[str, str]) -> dict[str, str]:
    """What libpq makes of `given` with service file and environment, without connecting.

    libpq has no function for that: but given an impossible `sslmode` it reads everything and
    then stops before it looks for a server (`pqConnectOptions2`).
    """
    parameters = {**given, "sslmode": "only-reading-options"}
    pgconn = pq.PGconn.connect_start(make_conninfo("", **parameters).encode())
    try:
        return {o.keyword.decode(): o.val.decode() for o in pgconn.info if o.val is not None}
    finally:
        pgconn.finish()


def attempt_timeout_seconds(effective: Mapping[str, str], timeout_seconds: float) -> float:
    """The smaller of `timeout_seconds` and the string's `connect_timeout`."""
    with contextlib.suppress(ValueError):
        asked = int(effective.get("connect_timeout", "0"))
        if asked > 0:
            return min(timeout_seconds, float(asked))
    return timeout_seconds


def targets_of(effective: Mapping[str, str]) -> list[dict[str, str]]:
    """Each server of the string as parameters of its own, in the order to try them.

    libpq would go through the list itself, but its asynchronous calls know no timeout: one
    host that swallows packets would keep it from the next.
    """
    hosts = effective.get("host", "").split(",")
    addresses = effective.get("hostaddr", "").split(",")
    ports = effective.get("port", "").split(",")
    count = max(len(hosts), len(addresses))
    lists = {"host": hosts, "hostaddr": addresses, "port": ports}
    if any(len(values) not in (1, count) for values in lists.values()):
        return [{}]  # libpq says best what is wrong
    targets = []
    for index in range(count):
        target = {}
        for name, values in lists.items():
            value = values[index if len(values) > 1 else 0]
            if value or count > 1:
                target[name] = value
        targets.append(target)
    if effective.get("load_balance_hosts") == "random":
        random.shuffle(targets)
    return targets


async def addresses_of(target: Mapping[str, str], timeout_seconds: float) -> list[dict[str, str]]:
    """The target once for each address of its host; libpq's own look-up would block the loop."""
    host = target.get("host", "")
    if not host or host.startswith(("/", "@")) or target.get("hostaddr"):
        return [dict(target)]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_seconds):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise LogshipError(
            Code.PRIMARY_UNREACHABLE,
            f"can't connect to {host}: its address is not known ({str(error) or 'no answer'})",
            "check the host name and this machine's name resolution",
            retryable=True,
        ) from error
    unique = dict.fromkeys(str(address[0]) for *_, address in found)
    return [{**target, "hostaddr": address} for address in unique]


def describe(parameters: Mapping[str, str]) -> str:
    """The server as messages name it."""
    host = parameters.get("host") or parameters.get("hostaddr") or "the local server"
    port = parameters.get("port")
    return f"{host}:{port}" if port else host


def joined(failures: list[LogshipError]) -> LogshipError:
    """One error for all servers tried; the most hopeful of them gives the code."""
    hopeful = [failure for failure in failures if failure.retryable]
    chosen = next(
        (failure for failure in hopeful if failure.code is Code.PRIMARY_NOT_READY),
        hopeful[0] if hopeful else failures[0],
    )
    what = "; ".join(dict.fromkeys(failure.what for failure in failures))
    return LogshipError(chosen.code, what, chosen.hint, retryable=chosen.retryable)

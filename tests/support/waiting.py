"""Waiting for a condition, and ports that nothing else takes."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import TypeVar

# Below the kernel's ephemeral range (32768 up), so that no outgoing connection takes a port
# between its choice and its use; each xdist worker draws from its own part.
FIRST_PORT = 15000
PORTS_PER_WORKER = 1000
WORKERS = 16

T = TypeVar("T")

_handed_out: set[int] = set()


def wait_until(condition: Callable[[], T], timeout_seconds: float, what: str) -> T:
    """Poll until ``condition()`` is true and return its value.

    Raises ``TimeoutError`` naming ``what`` was waited for and the last value seen. What the
    condition itself raises goes through.
    """
    deadline = time.monotonic() + timeout_seconds
    pause = 0.005
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(f"after {timeout_seconds} s still no {what} (last: {value!r})")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


async def until(condition: Callable[[], object], what: str, timeout_seconds: float = 60.0) -> None:
    """As `wait_until`, for what happens in this event loop."""
    try:
        async with asyncio.timeout(timeout_seconds):
            while not condition():  # noqa: ASYNC110 (any condition, not an event of ours)
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"still not: {what}") from None


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on, and the same one again only when all of
    this worker's were given once."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    first = FIRST_PORT + int(worker) % WORKERS * PORTS_PER_WORKER
    # Runs of pytest at the same time start at different places.
    offset = os.getpid() * 37
    for _ in range(2):
        for step in range(PORTS_PER_WORKER):
            port = first + (offset + step) % PORTS_PER_WORKER
            if port not in _handed_out and _is_free(port):
                _handed_out.add(port)
                return port
        _handed_out.clear()
    raise RuntimeError(f"no port from {first} to {first + PORTS_PER_WORKER - 1} is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

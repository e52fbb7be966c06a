"""How a running shipper is, for whoever asks it on a unix socket in its state directory.

It is asked, and not written down, so that an answer tells that the process lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import structlog

from logship.errors import Code, LogshipError

log = structlog.get_logger(__name__)

SOCKET_NAME: Final = "health.sock"
ANSWER_SECONDS: Final = 5.0
_PART_BYTES: Final = 64 * 1024


class State(StrEnum):
    """What a shipper is at."""

    STARTING = "starting"
    NO_PRIMARY = "no-primary"
    """The primary can't be reached."""
    CONNECTING = "connecting"
    """The primary is reached, the destination is not, or it refuses."""
    SHIPPING = "shipping"


class Health:
    """The state, since when, and the error that led to it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.state = State.STARTING
        self.error: LogshipError | None = None
        self._since = clock()

    def is_now(self, state: State, error: LogshipError | None = None) -> None:
        """error: why it is no better; the last one counts."""
        if state is not self.state:
            self.state, self._since = state, self._clock()
        self.error = error

    def as_dict(
        self,
        instance: str,
        *,
        primary_reachable: bool,
        away: Mapping[str, LogshipError | None] = MappingProxyType({}),
        standing: LogshipError | None = None,
    ) -> dict[str, Any]:
        """The answer: `healthy` where WAL has its whole way.  away: of several destinations.
        standing: why the destination takes nothing though it is connected."""
        is_shipping = self.state is State.SHIPPING
        error = standing if is_shipping and standing is not None else self.error
        return {
            "instance": instance,
            "state": self.state,
            "state_seconds": round(self._clock() - self._since, 1),
            "primary_reachable": primary_reachable,
            "away": {name: error and error.as_dict() for name, error in away.items()},
            "healthy": is_shipping and primary_reachable and not away and standing is None,
            "error": None if error is None else error.as_dict(),
        }


@contextlib.asynccontextmanager
async def answering(directory: Path, answer: Callable[[], dict[str, Any]]) -> AsyncIterator[None]:
    """Answer on the socket in `directory`, which belongs to this process alone.

    A shipper that can't be asked ships all the same: that is logged.
    """

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(json.dumps(answer()).encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    with _address(directory) as address:
        server: asyncio.Server | None = None
        try:
            Path(address).unlink(missing_ok=True)
            server = await asyncio.start_unix_server(serve, address)
        except OSError as error:
            log.warning(
                "shipper health can't be answered", directory=str(directory), why=str(error)
            )
        try:
            yield
        finally:
            if server is not None:
                server.close()
                Path(address).unlink(missing_ok=True)


def ask(directory: Path) -> dict[str, Any]:
    """What the shipper that runs with this directory says of itself.

    Raises LogshipError(SHIPPER_UNREACHABLE): none runs, or it does not answer.
    """
    answer = b""
    try:
        with _address(directory) as address, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(address)
            while part := connection.recv(_PART_BYTES):
                answer += part
        document: dict[str, Any] = json.loads(answer)
    except (OSError, ValueError) as error:
        raise LogshipError(
            Code.SHIPPER_UNREACHABLE,
            f"no shipper answers in {directory}: {error}",
            "does it run, with these settings? ask as its user, or as root",
            retryable=True,
        ) from error
    return document


@contextlib.contextmanager
def _address(directory: Path) -> Iterator[str]:
    """The socket's path by the open directory, as the kernel takes only 107 bytes of one."""
    opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{opened}/{SOCKET_NAME}"
    finally:
        os.close(opened)

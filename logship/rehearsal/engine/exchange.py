"""Programs in a running container, with bytes in and bytes out."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from logship.rehearsal.engine import supervision
from logship.rehearsal.engine.attendants import Answer

_HEADER = struct.Struct(">BxxxL")
_STDOUT = 1
_END_SECONDS = 30.0
# A volume may have many files that get another owner.
_EXECUTE_SECONDS = 900.0
_POLL_SECONDS = 0.02
_PIECE_BYTES = 1 << 16


class Call(NamedTuple):
    """A program as it is called in a container that runs."""

    container_id: str
    command: Sequence[str]
    user: str
    environment: Mapping[str, str] = {}
    directory: str = "/"

    def prepare(self, client: Any, **streams: bool) -> str:
        """Have the engine know it; returns the name by which it does.  Raises docker-py's
        errors."""
        made = client.api.exec_create(
            self.container_id,
            list(self.command),
            user=self.user,
            environment=dict(self.environment),
            workdir=self.directory,
            **streams,
        )
        return str(made["Id"])


def execute(client: Any, call: Call, *, stdin: bytes = b"") -> Answer:
    """Run `supervision` to its end.

    call: its command waits for `supervision.GO` before it prints anything: what comes along
    with the answer's headers would be lost.  It reads exactly `stdin` after that and does not wait
    for more: not every road to an engine can say that nothing follows.

    Raises docker-py's errors and OSError.
    """
    talk = Conversation(client, call)
    try:
        talk.send(supervision.GO + stdin, _EXECUTE_SECONDS)
        stdout, stderr = talk.everything()
    finally:
        talk.close()
    return Answer(ended(client, talk.execution), stdout, stderr)


class Conversation:
    """With a program that runs in a container; see `attendants.Line`.

    It must not print anything before it was sent something: see `execute`.  What begins it raises
    docker-py's errors and OSError, all else but `close` OSError.
    """

    def __init__(self, client: Any, call: Call) -> None:
        self.execution = call.prepare(client, stdin=True)
        self._stream = client.api.exec_start(self.execution, socket=True)
        self._road = getattr(self._stream, "_sock", self._stream)
        self._unread = b""
        self._complaints = b""

    def send(self, data: bytes, silence_seconds: float) -> None:
        # A road that was cut need not say so.
        self._road.settimeout(silence_seconds)
        for begin in range(0, len(data), _PIECE_BYTES):
            # Of one call it is the limit for all.
            self._road.sendall(data[begin : begin + _PIECE_BYTES])

    def receive(self) -> bytes:
        pieces = [self._unread]
        while b"\n" not in pieces[-1]:
            is_stdout, piece = self._piece()
            if not piece:
                return b""
            if is_stdout:
                pieces.append(piece)
            else:
                self._complaints += piece
        line, end, self._unread = b"".join(pieces).partition(b"\n")
        return line + end

    def everything(self) -> tuple[bytes, bytes]:
        """Of stdout and of stderr, to their end."""
        pieces: tuple[list[bytes], list[bytes]] = ([], [])
        while (said := self._piece())[1]:
            pieces[not said[0]].append(said[1])
        return b"".join(pieces[0]), b"".join(pieces[1])

    def close(self) -> str:
        # Closes the stream too; the other way round it would complain.
        getattr(self._stream, "_response", self._stream).close()
        return self._complaints.decode(errors="replace")

    def _piece(self) -> tuple[bool, bytes]:
        """Whether it is of stdout; nothing at the end."""
        header = _exactly(self._road, _HEADER.size)
        if len(header) < _HEADER.size:
            return True, b""
        stream, size = _HEADER.unpack(header)
        return stream == _STDOUT, _exactly(self._road, size)


def run_once(client: Any, image: str, command: Sequence[str], **how: Any) -> Answer:
    """Run a program as the only one of a container, which is removed with what it leaves.

    how: as docker-py's `containers.create`.  Raises docker-py's errors.
    """
    entrypoint, *arguments = command
    container = client.containers.create(
        image, arguments, entrypoint=entrypoint, user="root", network_mode="none", **how
    )
    try:
        container.start()
        status = container.wait()["StatusCode"]
        stdout, stderr = (
            container.logs(stdout=wanted, stderr=not wanted) for wanted in (True, False)
        )
        return Answer(int(status), stdout, stderr)
    finally:
        # The image's own anonymous volumes too, which docker-py's `run` would leave.
        container.remove(force=True, v=True)


def begin(client: Any, call: Call) -> str:
    """Start a program and leave it alone.  Returns how `is_running` and `ended` know it."""
    execution = call.prepare(client, stdout=False, stderr=False)
    client.api.exec_start(execution, detach=True)
    return execution


def is_running(client: Any, execution: str) -> bool:
    """False as well if the container is gone."""
    return bool(_state(client, execution).get("Running"))


def ended(client: Any, execution: str) -> int:
    """The exit status of a program that ends now; 137 if its container was removed with it."""
    end = time.monotonic() + _END_SECONDS
    while True:
        state = _state(client, execution)
        if not state.get("Running"):
            status = state.get("ExitCode")
            return 137 if status is None else int(status)
        if time.monotonic() > end:
            raise OSError("a program's end was not told by the container engine")
        time.sleep(_POLL_SECONDS)


def _state(client: Any, execution: str) -> dict[str, Any]:
    import docker

    try:
        return dict(client.api.exec_inspect(execution))
    except docker.errors.NotFound:
        return {}


def _exactly(road: Any, size: int) -> bytes:
    """`size` bytes; less if it ends before."""
    parts = []
    while size > 0:
        part = road.recv(size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)

"""Programs in a running container, with bytes in and bytes out."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from logship.rehearsal.engine import supervision

_HEADER = struct.Struct(">BxxxL")
_STDOUT = 1
_END_SECONDS = 30.0
_POLL_SECONDS = 0.02


class Answer(NamedTuple):
    returncode: int
    stdout: bytes
    stderr: bytes


def execute(
    client: Any,
    container_id: str,
    command: Sequence[str],
    *,
    user: str,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    directory: str = "/",
) -> Answer:
    """Run `supervision` to its end.

    command: of which `supervision.GO` is waited for before it prints anything: what comes along
    with the answer's headers would be lost.  It reads exactly `stdin` after that and does not wait
    for more: not every road to an engine can say that nothing follows.

    Raises docker-py's errors and OSError.
    """
    api = client.api
    made = api.exec_create(
        container_id,
        list(command),
        stdin=True,
        user=user,
        environment=dict(environment or {}),
        workdir=directory,
    )
    stream = api.exec_start(made["Id"], socket=True)
    try:
        road = getattr(stream, "_sock", stream)
        road.settimeout(None)
        road.sendall(supervision.GO + stdin)
        stdout, stderr = _everything(road)
    finally:
        # Closes the stream too; the other way round it would complain.
        getattr(stream, "_response", stream).close()
    return Answer(ended(client, made["Id"]), stdout, stderr)


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


def begin(
    client: Any,
    container_id: str,
    command: Sequence[str],
    *,
    user: str,
    environment: Mapping[str, str],
    directory: str,
) -> str:
    """Start a program and leave it alone.  Returns how `is_running` and `ended` know it."""
    made = client.api.exec_create(
        container_id,
        list(command),
        stdout=False,
        stderr=False,
        user=user,
        environment=dict(environment),
        workdir=directory,
    )
    client.api.exec_start(made["Id"], detach=True)
    return str(made["Id"])


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


def _everything(road: Any) -> tuple[bytes, bytes]:
    """Both streams, of which each piece says whose it is and how long."""
    pieces: tuple[list[bytes], list[bytes]] = ([], [])
    while len(header := _exactly(road, _HEADER.size)) == _HEADER.size:
        stream, size = _HEADER.unpack(header)
        pieces[stream != _STDOUT].append(_exactly(road, size))
    return b"".join(pieces[0]), b"".join(pieces[1])


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

"""The container engine: finding it, saying so if there is none, and what it complains of."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from logship.errors import Code, LogshipError
from logship.redaction import redact

_ANSWER_SECONDS = 10
_REQUEST_SECONDS = 300
_HINT = (
    "install and start one (Debian: `apt-get install docker.io`; Podman: `systemctl start "
    "podman.socket`, and DOCKER_HOST names its socket), or rehearse with `--engine local`"
)


def connect() -> Any:
    """A client of docker-py, whose engine has answered.

    Raises LogshipError(NO_CONTAINER_ENGINE), within seconds.
    """
    try:
        import docker
        from testcontainers.core.config import testcontainers_config

        host = engine_host()
    except ImportError as error:
        raise LogshipError(
            Code.NO_CONTAINER_ENGINE,
            f"what speaks to a container engine is not installed: {error.name}",
            "`pip install 'logship[rehearse]'`, or rehearse with `--engine local`",
        ) from error
    # It would clean up after us with an image of a registry, which is not always to be had.
    testcontainers_config.ryuk_disabled = True
    try:
        _knock(host)
        client = docker.DockerClient(
            base_url=host, timeout=_ANSWER_SECONDS, tls=_tls(), use_ssh_client=True
        )
        try:
            client.ping()
        except Exception:
            client.close()
            raise
    except (docker.errors.DockerException, OSError) as error:
        raise LogshipError(
            Code.NO_CONTAINER_ENGINE,
            f"no container engine answers at {redact(host)}: {_words(error)}",
            _HINT,
        ) from error
    client.api.timeout = _REQUEST_SECONDS
    return client


def engine_host() -> str:
    """Where the engine is looked for.  Raises ImportError: testcontainers is not installed."""
    from testcontainers.core.docker_client import get_docker_host

    return get_docker_host() or "unix:///var/run/docker.sock"


def _knock(host: str) -> None:
    """Raises OSError if nobody listens on a Unix socket: docker-py would leave its own open."""
    scheme, _, path = host.partition("://")
    if scheme in ("unix", "http+unix"):
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.settimeout(_ANSWER_SECONDS)
            knocking.connect(path)


def _tls() -> Any:
    """As docker-py's `from_env`: DOCKER_TLS_VERIFY and DOCKER_CERT_PATH."""
    from docker.utils import kwargs_from_env

    return kwargs_from_env(environment=dict(os.environ)).get("tls", False)


@contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """What the engine complains of while it is asked, as LogshipError(CONTAINER_FAILED).

    what: what is not done then: "the volume of machine primary can't be made".
    """
    import docker

    try:
        yield
    except (docker.errors.DockerException, OSError) as error:
        raise LogshipError(
            Code.CONTAINER_FAILED,
            f"{what}: {_words(error)}",
            "look at the container engine's own log",
            retryable=True,
        ) from error


def _words(error: BaseException) -> str:
    """The engine's own, or the operating system's, which client libraries wrap several times."""
    said = getattr(error, "explanation", None) or _system_words(error) or str(error)
    return redact(" ".join(str(said).split()))[:400]


def _system_words(error: BaseException) -> str:
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending:
        each = pending.pop()
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, OSError) and each.strerror:
            return each.strerror
        pending += [each.__cause__, each.__context__, *each.args]
    return ""

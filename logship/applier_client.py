"""The operators' way to a running applier: its HTTP API on a unix socket.

Standard library only, because every `shipper status` pays for what this imports.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.status import InstanceStatus

DEFAULT_SOCKET: Final = Path("/run/logship/applier.sock")
ENVIRONMENT_VARIABLE: Final = "LOGSHIP_APPLIER"

_CONNECT_TIMEOUT_SECONDS = 5.0
_ANSWER_TIMEOUT_SECONDS = 30.0
_COMPAT_TIMEOUT_SECONDS = 300.0
_RETENTION_TIMEOUT_SECONDS = 600.0
_SWITCH_EXTRA_SECONDS = 300.0
"""To stop the standby, and to go back."""
_CHANGE_TIMEOUT_SECONDS = 300.0
_REMOVE_TIMEOUT_SECONDS = 3600.0
"""All of an instance's files go."""

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_PROFILE_REQUEST_BYTES: Final = 1024 * 1024
"""Of a request with a primary's profile: an applier takes no larger one."""


def find_socket(option: str | None) -> Path:
    """Where the applier's API is: `--applier`, else LOGSHIP_APPLIER, else the default path."""
    return Path(option or os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_SOCKET)


class ApplierClient:
    """Calls the API; one connection a call.

    Every method raises LogshipError: APPLIER_UNREACHABLE (retryable) if nobody answers, else
    what the applier said, as UsageError or RefusedError where the applier's was.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def instances(self) -> list[InstanceStatus]:
        """All instances, by name."""
        answer = self._call("GET", "/v1/instances")
        return cast("list[InstanceStatus]", answer["instances"])

    def instance(self, name: str) -> InstanceStatus:
        """One instance.  UsageError(UNKNOWN_INSTANCE) if the applier has none of that name."""
        return cast(InstanceStatus, self._call("GET", _path_of(name)))

    def compat(
        self, name: str, against: str = "", primary: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """What the version check says now, with the installation `against` or the standby's.

        primary: the document of what its primary would be; None: what it was last heard to be.
        """
        if primary is not None:
            return self._call(
                "POST",
                _path_of(name) + "/compat",
                {"against": against, "primary": primary},
                timeout_seconds=_COMPAT_TIMEOUT_SECONDS,
            )
        return self._call(
            "GET",
            f"{_path_of(name)}/compat?against={quote(against, safe='')}",
            timeout_seconds=_COMPAT_TIMEOUT_SECONDS,
        )

    def request_seed(self, name: str, why: str, source: str = "") -> dict[str, Any]:
        """Ask for a (re)seed; `why` goes into the logs of both sides.

        source: "link", "bucket" or a directory there; "": the applier chooses.
        """
        return self._call("POST", _path_of(name) + "/seed", {"why": why, "from": source})

    def enroll(self, name: str, address: str = "", hours: float = 1.0) -> dict[str, Any]:
        """Have a one-time token made for a new instance.

        address: how its shipper reaches the applier; "": by the applier's own host name.
        """
        return self._call("POST", _path_of(name) + "/enroll", {"address": address, "hours": hours})

    def retention(self, name: str, *, dry_run: bool) -> dict[str, Any]:
        """Remove what retention lets go, or only say what that is."""
        return self._call(
            "POST",
            _path_of(name) + "/retention",
            {"dry_run": dry_run},
            timeout_seconds=_RETENTION_TIMEOUT_SECONDS,
        )

    def fleet(self) -> list[dict[str, Any]]:
        """Every instance by name: where it is from, and its settings."""
        return cast("list[dict[str, Any]]", self._call("GET", "/v1/fleet")["instances"])

    def add(self, name: str, said: dict[str, Any]) -> dict[str, Any]:
        """Register an instance; `said` by the names of the settings file."""
        return self._call(
            "POST",
            _path_of(name) + "/add",
            {"set": said},
            timeout_seconds=_CHANGE_TIMEOUT_SECONDS,
        )

    def change(self, name: str, changes: dict[str, Any], unset: list[str]) -> dict[str, Any]:
        """Change a registered instance."""
        return self._call(
            "POST",
            _path_of(name) + "/change",
            {"set": changes, "unset": unset},
            timeout_seconds=_CHANGE_TIMEOUT_SECONDS,
        )

    def remove(self, name: str, *, keep_data: bool, promoted: bool) -> dict[str, Any]:
        """Remove a registered instance.  It goes on in the applier when the caller goes away."""
        return self._call(
            "POST",
            _path_of(name) + "/remove",
            {"keep_data": keep_data, "promoted": promoted},
            timeout_seconds=_REMOVE_TIMEOUT_SECONDS,
        )

    def switch_installation(self, name: str, version: str, within_seconds: float) -> dict[str, Any]:
        """Run its standby on that version; returns when it streams there, or is back."""
        return self._call(
            "POST",
            _path_of(name) + "/installation",
            {"to": version, "within_seconds": within_seconds},
            timeout_seconds=within_seconds + _SWITCH_EXTRA_SECONDS,
        )

    def accept(self, name: str, incarnation: str) -> dict[str, Any]:
        """Let that cluster take the instance's place when it comes."""
        return self._call("POST", _path_of(name) + "/accept", {"incarnation": incarnation})

    def forget(self, name: str, incarnation: str | None) -> dict[str, Any]:
        """Remove what is kept of a cluster of before; None: of all that are not needed."""
        return self._call("POST", _path_of(name) + "/forget", {"incarnation": incarnation})

    def promote(self, name: str, incarnation: str | None = None) -> Iterator[dict[str, Any]]:
        """Promote.  Yields {"step", "details"} as each step is made, then {"result"} once.

        incarnation: one of the clusters that are kept; None: the one that the instance is.
        The promotion goes on in the applier when the caller goes away.  A connection that
        breaks before the result raises APPLIER_UNREACHABLE: how far it got is in the status.
        """
        connection = _UnixConnection(self.path)
        try:
            body = {} if incarnation is None else {"incarnation": incarnation}
            response = self._send(connection, "POST", _path_of(name) + "/promote", body, None)
            if response.status != HTTPStatus.OK:
                raise _error_of(_parsed(self._body(response)), response.status)
            for line in self._lines(response):
                event = _parsed(line)
                if "error" in event:
                    raise _error_of(event, event.get("status", 500))
                yield event
                if "result" in event:
                    return
            raise self._broken_off()
        finally:
            connection.close()

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        timeout_seconds: float = _ANSWER_TIMEOUT_SECONDS,
    ) -> dict[str, Any]:
        connection = _UnixConnection(self.path)
        try:
            response = self._send(connection, method, path, body, timeout_seconds)
            answer = _parsed(self._body(response))
            if response.status != HTTPStatus.OK:
                raise _error_of(answer, response.status)
            return answer
        finally:
            connection.close()

    def _send(
        self,
        connection: _UnixConnection,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        timeout_seconds: float | None,
    ) -> http.client.HTTPResponse:
        try:
            connection.connect()
        except OSError as error:
            raise self._unreachable(error) from error
        connection.sock.settimeout(timeout_seconds)
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, content, headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._broken_off() from error

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        try:
            body = response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken_off() from error
        return body

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while line := response.readline(MAX_ANSWER_BYTES):
                yield line
        except (OSError, http.client.HTTPException) as error:
            raise self._broken_off() from error

    def _unreachable(self, error: OSError) -> LogshipError:
        why = error.strerror or type(error).__name__
        if isinstance(error, PermissionError):
            hint = "run this as a user who may write to the socket (api.group in its settings)"
        elif isinstance(error, FileNotFoundError | ConnectionRefusedError):
            hint = (
                "is it running here, on the recovery server? Its socket is api.socket in its "
                f"settings; name another with --applier or {ENVIRONMENT_VARIABLE}. `promote "
                "--offline` needs no running applier"
            )
        else:
            hint = f"check the path, and name another with --applier or {ENVIRONMENT_VARIABLE}"
        return LogshipError(
            Code.APPLIER_UNREACHABLE,
            f"the applier can't be reached at {self.path}: {why}",
            hint,
            retryable=not isinstance(error, PermissionError),
        )

    def _broken_off(self) -> LogshipError:
        return LogshipError(
            Code.APPLIER_UNREACHABLE,
            f"the applier at {self.path} broke off before it had answered",
            "it may have stopped: look at its log; `shipper status` shows how far it got",
            retryable=True,
        )


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket.  The host name is only for the Host header."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT_TIMEOUT_SECONDS)
        try:
            self.sock.connect(str(self._path))
        except BaseException:
            self.close()
            raise


def _path_of(name: str) -> str:
    return "/v1/instances/" + quote(name, safe="")


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise LogshipError(
            Code.APPLIER_UNREACHABLE,
            "what answers on the applier's socket does not speak its language",
            "check --applier: it must be the socket that api.socket names in the settings",
        )
    return document


def _error_of(document: dict[str, Any], status: int) -> LogshipError:
    error = document.get("error")
    if not isinstance(error, dict):
        return LogshipError(Code.INTERNAL, f"the applier answered {status} without a reason")
    what, hint = str(error.get("what", "")), str(error.get("hint", ""))
    try:
        code = Code(str(error.get("code")))
    except ValueError:
        # A newer applier may know more codes.
        what, code = f"{what} [{error.get('code')}]", Code.INTERNAL
    kinds = {400: UsageError, 404: UsageError, 409: RefusedError, 413: UsageError}
    kind: type[LogshipError] = kinds.get(status, LogshipError)
    return kind(code, what, hint, retryable=bool(error.get("retryable")))

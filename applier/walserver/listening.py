"""The unix socket's path: taken over from the dead, never from the living."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from logship.errors import Code, LogshipError

MAX_SOCKET_PATH_BYTES = 107
"""`sockaddr_un.sun_path` on Linux, without its closing NUL."""
_WAITING_CONNECTIONS = 1024
"""After a restart all standbys come at once; one that finds no room waits for two seconds."""


def listen_at(path: Path) -> socket.socket:
    """A listening, non-blocking socket at `path`; its directory is made (0711) if missing.

    Raises LogshipError: SOCKET_IN_USE if another process listens there, SETTINGS for a
    path that no socket can have.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise LogshipError(
            Code.SETTINGS,
            f"the socket's path {path} is longer than {MAX_SOCKET_PATH_BYTES} bytes",
            "set a shorter socket directory",
        )
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o711)  # Whatever the umask: standbys run as another user.
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        # As PostgreSQL's unix_socket_permissions: who may be served is asked of the kernel.
        path.chmod(0o777)
        listener.listen(_WAITING_CONNECTIONS)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    in_use = LogshipError(
        Code.SOCKET_IN_USE,
        f"another server listens on {path}",
        "is an applier running already? Stop it, or set another socket directory or port",
    )
    if not stat.S_ISSOCK(mode):
        raise LogshipError(
            Code.SOCKET_IN_USE,
            f"{path} is in the way and no socket",
            "move it away, or set another socket directory or port",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # Nobody listens: its process died.
            return
        except (BlockingIOError, TimeoutError):
            raise in_use from None  # Its backlog is full: somebody lives there.
    raise in_use

"""One client of the WAL server: the asyncio protocol around its session."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

import structlog

from applier.store.reading import FileSlice
from applier.walserver.gate import Gate
from applier.walserver.replication import WalSender
from applier.walserver.session import Client, Role, Session, WalRequest
from applier.walserver.source import WalSource
from applier.walserver.status import StandbyStatus
from logship.errors import LogshipError
from logship.lsn import Position

log = structlog.get_logger(__name__)

_SHARED_BYTES = 64 * 1024
"""From here on the kernel copies from the store's file: below, the calls cost more."""
_SEND_BUFFER_BYTES = 1024 * 1024
"""What we ask the kernel for, which gives less where `net.core.wmem_max` says so.  A reader
that is not kept waiting for the rest of a message syncs less often."""
_CANT_SHARE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_CLOSE_GRACE_SECONDS = 1.0
_QUIET_SECONDS = 0.001
"""WAL that comes this long after what was sent last is sent at once; what comes sooner waits for
the next turn of the loop, and for what else comes in this one."""
_PEER_CREDENTIALS = struct.Struct("=iII")  # struct ucred, unix(7)


@dataclass
class Instance:
    """What is served under one name, and to whom."""

    name: str
    source: WalSource
    server_version: str
    gate: Gate
    unsubscribe: Callable[[], None]
    connections: set[Connection] = field(default_factory=set)
    refused: dict[str, StandbyStatus] = field(default_factory=dict)
    """By application name: turned away, gone, and not back in order since."""


class Host(Protocol):
    """What a connection needs of the server."""

    def connected(self, connection: Connection) -> int | None:
        """Take note of a new connection.  Returns its number; None: serve it not."""

    def open_role(self, connection: Connection, client: Client) -> tuple[Instance, WalSender]:
        """Who `client` is to be served as.  Raises SqlError to turn it away."""

    def changed(self, instance: Instance, status: StandbyStatus) -> None:
        """A standby reported, or its state changed."""

    def departed(self, connection: Connection) -> None:
        """The connection is gone."""


class Connection(asyncio.Protocol):
    """Bytes to its session, its session's wishes to the transport and the source."""

    def __init__(self, host: Host) -> None:
        self.instance: Instance | None = None
        self.role: WalSender | None = None
        self.uid = -1
        self._host = host
        self._loop = asyncio.get_running_loop()
        self.departed: asyncio.Future[None] = self._loop.create_future()
        self._pid = 0
        self._application_name = ""
        self._connected_at = 0.0
        self._sent_at = 0.0
        self._writable = True
        """Whether the transport holds nothing back."""
        self._sharing: FileSlice | None = None
        """What is left of the WAL whose header is written: nothing may come between."""
        self._share_socket: socket.socket | None = None
        """A duplicate of the transport's, as the loop lets nobody else wait for that one."""
        self._reading = True
        self._wakening: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._revision = 0
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(0, 0)
        peer = transport.get_extra_info("socket")
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        self._pid, self.uid, _ = _PEER_CREDENTIALS.unpack(credentials)
        self._connected_at = self._loop.time()
        number = self._host.connected(self)
        self._session = Session(
            self._open_role,
            process_id=number or 0,
            secret=secrets.token_bytes(32),
            now=self._connected_at,
        )
        self._arm_timer()
        if number is None:
            self.shut_down()

    def data_received(self, data: bytes) -> None:
        self._session.receive_data(data, self._loop.time())
        if self._session.wants_answer:
            self._pump()
        else:
            self._report()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._sharing is not None:
            self._go_on_sharing()
        else:
            self.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        for handle in (self._wakening, self._timer):
            if handle is not None:
                handle.cancel()
        self._end_sharing()
        if self._share_socket is not None:
            self._share_socket.close()
            self._share_socket = None
        # A reader that is gone needs no answer, only its role told that the COPY is over.
        self._session.shut_down()
        self._host.departed(self)
        if self.instance is not None:
            log.info(
                "standby disconnected",
                instance=self.instance.name,
                standby=self._application_name,
                error=None if exc is None else str(exc),
            )
        self.departed.set_result(None)

    def wake(self) -> None:
        """Look again, in the next turn of the loop: however often called, once."""
        if self._wakening is None and not self._closing:
            self._wakening = self._loop.call_soon(self._woken)

    def source_grew(self) -> None:
        """Send what is new, or soon.  Never raises: whoever wrote it is not to suffer for it."""
        if self._loop.time() - self._sent_at < _QUIET_SECONDS:
            self.wake()
            return
        try:
            self._pump()
        except Exception as error:
            context = {"message": "a bug while WAL was sent on", "exception": error}
            self._loop.call_exception_handler(context)

    def shut_down(self) -> None:
        if not self._closing:
            self._session.shut_down()
            self._write_output()
            self._close()

    def status(self) -> StandbyStatus:
        role = self.role
        if role is None:
            raise AssertionError("a connection without a role has no status")
        return StandbyStatus(
            application_name=self._application_name,
            pid=self._pid,
            state=role.state,
            timeline=role.timeline if role.copying else 0,
            sent_lsn=role.sent_lsn,
            write_lsn=role.write_lsn,
            flush_lsn=role.flush_lsn,
            apply_lsn=role.apply_lsn,
            connected_at=self._connected_at,
            last_reply_at=role.last_reply_at,
            refusal=role.refusal,
        )

    def _open_role(self, client: Client) -> Role:
        self._application_name = client.application_name
        self.instance, self.role = self._host.open_role(self, client)
        log.info(
            "standby connected",
            instance=client.user,
            standby=client.application_name,
            process=self._pid,
        )
        return self.role

    def _woken(self) -> None:
        self._wakening = None
        self._pump()

    def _timer_fired(self) -> None:
        self._timer = None
        if not self._closing:
            # Also while the client reads nothing: it is then that the time-out matters.
            self._session.advance(self._loop.time())
            self._pump()

    def _pump(self) -> None:
        """Do what the session wants, as far as the client takes it: at most one message of WAL."""
        if self._closing:
            return
        now = self._loop.time()
        if self._is_free:
            self._session.advance(now)
            self._write_output()
            self._send_chunk(now)
        self._report()
        if self._session.closed:
            self._write_output()
            self._close()
            return
        self._read_or_not()
        self._arm_timer()

    @property
    def _is_free(self) -> bool:
        """Whether the client took everything so far."""
        return self._writable and self._sharing is None

    def _send_chunk(self, now: float) -> None:
        if not self._is_free:
            return
        request = self._session.wal_wanted(now)
        if request is None or self.instance is None:
            return
        source = self.instance.source
        try:
            if request.max_bytes >= _SHARED_BYTES:
                slice_ = source.share(request.timeline, request.lsn, request.max_bytes)
                if slice_ is not None:
                    self._share(request, slice_, now)
                    return
            data = source.read(request.timeline, request.lsn, request.max_bytes)
        except LogshipError as error:
            self._log_unreadable(
                error.what,
                position=str(Position(request.timeline, request.lsn)),
                code=str(error.code),
            )
            self._session.wal_failed(error, now)
            self._write_output()
            return
        if not data:
            return  # Less there than announced: the source calls when that changes.
        self._sent_at = now
        self._session.wal_read(request, data, now)
        self._session.advance(now)  # their timeline may end with these
        self._write_output()
        if self._session.wal_wanted(now) is not None:
            self.wake()

    def _log_unreadable(self, error: str, **where: str) -> None:
        log.error(
            "WAL can't be read for a standby",
            instance=None if self.instance is None else self.instance.name,
            standby=self._application_name,
            error=error,
            **where,
        )

    # WAL from the file to the socket, past the transport, which has nothing to write meanwhile

    def _share(self, request: WalRequest, slice_: FileSlice, now: float) -> None:
        self._sent_at = now
        if not self._session.wal_announced(request, slice_.size_bytes, now):
            slice_.close()
            self._write_output()
            return
        self._write_output()
        self._sharing = slice_
        self._go_on_sharing()

    def _go_on_sharing(self) -> None:
        slice_ = self._sharing
        # Until the transport has written the header, `resume_writing` comes back here.
        if slice_ is None or not self._writable or self._transport.is_closing():
            return
        try:
            shared = self._share_socket = self._share_socket or _duplicate(self._transport)
            while slice_.size_bytes:
                if not slice_.send(shared.fileno()):
                    raise OSError(errno.ENODATA, "the file is shorter than it was")
        except BlockingIOError:
            self._loop.add_writer(shared, self._go_on_sharing)
            return
        except OSError as error:
            if error.errno not in _CANT_SHARE or not self._write_rest(slice_):
                self._give_up(error)
                return
        self._end_sharing()
        self.wake()

    def _write_rest(self, slice_: FileSlice) -> bool:
        """Where the file system has no sendfile.  False if not all of it could be read."""
        try:
            data = slice_.read()
        except OSError:
            return False
        self._transport.write(data)
        return not slice_.size_bytes

    def _give_up(self, error: OSError) -> None:
        """In the middle of a message nothing can be said any more: the client asks again."""
        if error.errno not in (errno.EPIPE, errno.ECONNRESET):
            self._log_unreadable(str(error))
        self._end_sharing()
        self._closing = True
        self._transport.abort()

    def _end_sharing(self) -> None:
        if self._sharing is not None:
            self._sharing.close()
            self._sharing = None
        if self._share_socket is not None:
            self._loop.remove_writer(self._share_socket)

    def _write_output(self) -> None:
        if self._sharing is not None:
            return  # It waits in the session for the end of the message.
        output = self._session.data_to_send()
        if output:
            # In one: some versions of Python do not stop for a full buffer after `writelines`.
            self._transport.write(b"".join(output))

    def _read_or_not(self) -> None:
        wanted = self._is_free or not self._session.input_blocked
        if wanted and not self._reading:
            self._transport.resume_reading()
        elif not wanted and self._reading:
            self._transport.pause_reading()
        self._reading = wanted

    def _report(self) -> None:
        role, instance = self.role, self.instance
        if role is None or instance is None or role.revision == self._revision:
            return
        self._revision = role.revision
        status = self.status()
        known = instance.refused.get(self._application_name)
        if status.refusal is not None and known is None:
            # Once: it comes back every few seconds to hear the same.
            log.error(
                "standby refused",
                instance=instance.name,
                standby=self._application_name,
                code=str(status.refusal.code),
                error=status.refusal.what,
                hint=status.refusal.hint,
            )
        self._host.changed(instance, status)

    def _arm_timer(self) -> None:
        deadline = self._session.deadline
        if deadline is None or self._session.closed:
            return
        # A timer that fires early is cheaper than one moved with every chunk.
        if self._timer is not None and self._timer.when() <= deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._timer_fired)

    def _close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._sharing is not None:
            # The client would take a goodbye for WAL.
            self._transport.abort()
            return
        self._transport.close()
        # close() waits for its buffer to drain; a client that reads nothing is not waited for.
        self._loop.call_later(_CLOSE_GRACE_SECONDS, self._transport.abort)


def _duplicate(transport: asyncio.Transport) -> socket.socket:
    duplicate = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    return duplicate

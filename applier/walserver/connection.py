"""One client of the WAL server: the asyncio protocol around its session."""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

import structlog

from applier.walserver.gate import Gate
from applier.walserver.replication import WalSender
from applier.walserver.session import Client, Role, Session
from applier.walserver.source import WalSource
from applier.walserver.status import StandbyStatus
from logship.errors import LogshipError
from logship.lsn import Position

log = structlog.get_logger(__name__)

_WRITE_BUFFER_HIGH_BYTES = 512 * 1024
_WRITE_BUFFER_LOW_BYTES = 128 * 1024
_CLOSE_GRACE_SECONDS = 1.0
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
        self._writable = True
        self._reading = True
        self._wakening: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._revision = 0
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_WRITE_BUFFER_HIGH_BYTES, _WRITE_BUFFER_LOW_BYTES)
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
        self._pump()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        for handle in (self._wakening, self._timer):
            if handle is not None:
                handle.cancel()
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
        """Do what the session wants, as far as the client takes it: at most one chunk."""
        if self._closing:
            return
        now = self._loop.time()
        if self._writable:
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

    def _send_chunk(self, now: float) -> None:
        if not self._writable:
            return
        request = self._session.wal_wanted(now)
        if request is None or self.instance is None:
            return
        try:
            data = self.instance.source.read(request.timeline, request.lsn, request.max_bytes)
        except LogshipError as error:
            log.error(
                "WAL can't be read for a standby",
                instance=self.instance.name,
                standby=self._application_name,
                position=str(Position(request.timeline, request.lsn)),
                code=str(error.code),
                error=error.what,
            )
            self._session.wal_failed(error, now)
            self._write_output()
            return
        if not data:
            return  # Less there than announced: the source calls when that changes.
        self._session.wal_read(request, data, now)
        self._write_output()
        self.wake()

    def _write_output(self) -> None:
        output = self._session.data_to_send()
        if output:
            self._transport.writelines(output)

    def _read_or_not(self) -> None:
        wanted = self._writable or not self._session.input_blocked
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
        self._transport.close()
        # close() waits for its buffer to drain; a client that reads nothing is not waited for.
        self._loop.call_later(_CLOSE_GRACE_SECONDS, self._transport.abort)

"""The WAL server on its unix socket: the asyncio shell around `session` and `replication`.

One connection per standby, no task per connection: what arrives, what the source announces
and what a timer says all end in `Connection._pump`, on the loop's thread.  A write in the store
is sent on in the same step, under load in the next turn of the loop together with what came
meanwhile.  One message (1 MB) is sent per turn and connection, and none to a connection whose
buffer is full, so that neither a slow standby nor one that has much to catch up keeps the others
waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from applier.walserver.codec import SqlError
from applier.walserver.connection import Connection, Instance
from applier.walserver.gate import OPEN_GATE, Gate
from applier.walserver.listening import listen_at
from applier.walserver.replication import SENDER_TIMEOUT_SECONDS, WalSender
from applier.walserver.session import Client
from applier.walserver.source import WalSource
from applier.walserver.status import StandbyState, StandbyStatus
from logship.lsn import Lsn, Position

log = structlog.get_logger(__name__)

StatusCallback = Callable[[str, StandbyStatus], None]


@dataclass
class _Waiter:
    name: str
    condition: Callable[[Sequence[StandbyStatus]], bool]
    done: asyncio.Future[None]


class WalServer:
    """Serves the WAL of any number of instances to any number of standbys.

    socket_directory: made (0711) if missing; must be reachable by the user that the standbys
    run as.  port: only names the socket, `.s.PGSQL.<port>`, as PostgreSQL does.
    allowed_uids: who may connect, as the kernel says (SO_PEERCRED); nobody else is served,
    whatever they send.  on_status: called for each report, change of state and departure of
    a standby, on the loop's thread; must be quick and not raise.

    Every method must be called on the thread of the loop that `start` ran in.
    """

    def __init__(
        self,
        socket_directory: Path,
        port: int = 5432,
        *,
        allowed_uids: frozenset[int],
        on_status: StatusCallback | None = None,
        timeout_seconds: float = SENDER_TIMEOUT_SECONDS,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.socket_path = socket_directory / f".s.PGSQL.{port}"
        self._allowed_uids = allowed_uids
        self._on_status = on_status
        self._timeout_seconds = timeout_seconds
        self._wall_clock = wall_clock
        self._instances: dict[str, Instance] = {}
        self._connections: set[Connection] = set()
        self._waiters: list[_Waiter] = []
        self._numbers = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._socket_inode: int | None = None

    def serve(
        self, name: str, source: WalSource, server_version: str, gate: Gate = OPEN_GATE
    ) -> None:
        """Serve `source` to connections whose user is `name`.

        server_version: what the standby is told, such as "17.9".  Raises ValueError if
        `name` is served already.
        """
        if name in self._instances:
            raise ValueError(f"{name} is served already")
        instance = Instance(name, source, server_version, gate, lambda: None)

        def grew() -> None:
            for connection in list(instance.connections):
                connection.source_grew()

        instance.unsubscribe = source.subscribe(grew)
        self._instances[name] = instance

    def withdraw(self, name: str) -> None:
        """Serve `name` no more, if it is served: its standbys are sent away."""
        instance = self._instances.pop(name, None)
        if instance is None:
            return
        instance.unsubscribe()
        for connection in list(instance.connections):
            connection.shut_down()

    def set_gate(self, name: str, gate: Gate) -> None:
        """Let `gate` decide from now on.  Raises KeyError if `name` is not served."""
        instance = self._instances[name]
        instance.gate = gate
        for connection in instance.connections:
            if connection.role is not None:
                connection.role.gate = gate
            connection.wake()

    def gate(self, name: str) -> Gate:
        """The gate in force.  Raises KeyError if `name` is not served."""
        return self._instances[name].gate

    def hold(self, name: str) -> Gate:
        """Set and return a gate at the current position: the furthest that any standby got.

        With no standby it is the end of what is written.  Raises KeyError if `name` is not
        served.
        """
        instance = self._instances[name]
        sent = [status.sent_lsn for status in self.standbys(name) if status.timeline]
        written = instance.source.written
        here = max(sent) if sent else (Lsn(0) if written is None else written.lsn)
        gate = Gate(hold_at_lsn=here)
        self.set_gate(name, gate)
        return gate

    def standbys(self, name: str) -> list[StandbyStatus]:
        """Who is connected, and who was refused and is gone, or has come again and not reported
        yet; [] if `name` is not served."""
        instance = self._instances.get(name)
        if instance is None:
            return []
        refused = instance.refused
        connected = [
            status
            for status in (connection.status() for connection in instance.connections)
            if status.refusal is not None or status.application_name not in refused
        ]
        present = {status.application_name for status in connected}
        gone = [status for key, status in refused.items() if key not in present]
        return sorted([*connected, *gone], key=lambda status: (status.application_name, status.pid))

    async def wait_until(
        self,
        name: str,
        condition: Callable[[Sequence[StandbyStatus]], bool],
        timeout_seconds: float,
    ) -> None:
        """Return when `condition(standbys(name))` holds.

        Looked at on each change that `on_status` would be called for, so it must not rest
        on `sent_lsn`.  Raises TimeoutError.
        """
        if condition(self.standbys(name)):
            return
        waiter = _Waiter(name, condition, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await asyncio.wait_for(waiter.done, timeout_seconds)
        finally:
            self._waiters.remove(waiter)

    async def wait_for_flush(
        self, name: str, position: Position, timeout_seconds: float
    ) -> StandbyStatus:
        """Return the first standby that has everything up to `position` in its own pg_wal.

        Raises KeyError if `name` is not served, TimeoutError if no standby gets there.
        """
        source = self._instances[name].source
        found: list[StandbyStatus] = []

        def reached(standbys: Sequence[StandbyStatus]) -> bool:
            found[:] = [status for status in standbys if _covers(status, position, source)]
            return bool(found)

        await self.wait_until(name, reached, timeout_seconds)
        return found[0]

    async def start(self) -> None:
        """Listen.  Replaces the socket of a process that died.

        Raises LogshipError: SOCKET_IN_USE if another process listens there, SETTINGS for a
        path that no socket can have.
        """
        listener = listen_at(self.socket_path)
        self._socket_inode = self.socket_path.stat().st_ino
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Connection(self), sock=listener)
        log.info("WAL server listens", socket=str(self.socket_path))

    async def stop(self) -> None:
        """Send every standby away and remove the socket.  They come back by themselves."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        with contextlib.suppress(FileNotFoundError):
            if self.socket_path.stat().st_ino == self._socket_inode:
                self.socket_path.unlink()
        for connection in list(self._connections):
            connection.shut_down()
        for name in list(self._instances):
            self.withdraw(name)
        while self._connections:
            await asyncio.wait([connection.departed for connection in self._connections])
        await server.wait_closed()
        log.info("WAL server stopped", socket=str(self.socket_path))

    # What connections call

    def connected(self, connection: Connection) -> int | None:
        if self._server is None:
            return None  # Accepted in the turn in which `stop` closed the door.
        self._connections.add(connection)
        return next(self._numbers)

    def open_role(self, connection: Connection, client: Client) -> tuple[Instance, WalSender]:
        if connection.uid not in self._allowed_uids:
            log.warning(
                "connection refused: user not allowed", uid=connection.uid, user=client.user
            )
            raise SqlError(
                "28000",
                f"operating system user {connection.uid} may not read this server's WAL",
                hint="Only the users that the standbys run as may.",
                fatal=True,
            )
        instance = self._instances.get(client.user)
        if instance is None:
            raise SqlError("28000", f'instance "{client.user}" is not served here', fatal=True)
        instance.connections.add(connection)
        role = WalSender(
            instance.source,
            instance.server_version,
            gate=instance.gate,
            timeout_seconds=self._timeout_seconds,
            wall_clock=self._wall_clock,
        )
        return instance, role

    def changed(self, instance: Instance, status: StandbyStatus) -> None:
        if status.refusal is not None:
            instance.refused[status.application_name] = status
        elif status.timeline and status.last_reply_at is not None:
            # Not before its first report in this connection: only that shows where it is.
            instance.refused.pop(status.application_name, None)
        self._publish(instance, status)

    def departed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        instance = connection.instance
        if instance is None:
            return
        instance.connections.discard(connection)
        status = connection.status()
        if status.refusal is None:
            status = status._replace(state=StandbyState.DISCONNECTED)
        self._publish(instance, status)

    def _publish(self, instance: Instance, status: StandbyStatus) -> None:
        if self._on_status is not None:
            self._on_status(instance.name, status)
        for waiter in self._waiters:
            if waiter.name != instance.name or waiter.done.done():
                continue
            try:
                if waiter.condition(self.standbys(waiter.name)):
                    waiter.done.set_result(None)
            except Exception as error:  # The waiter's bug, to be raised where it waits.
                waiter.done.set_exception(error)


def _covers(status: StandbyStatus, position: Position, source: WalSource) -> bool:
    """Whether a standby's durable WAL includes everything up to `position`.

    Of a later timeline only once the standby is on it: until then it may not know of it, and
    would give its own new one the same number when it is promoted.
    """
    if status.state is StandbyState.REFUSED or status.flush_lsn < position.lsn:
        return False
    if status.timeline <= position.timeline:
        return status.timeline == position.timeline
    # Both have the same bytes up to where the older one's timeline ended.
    history = source.histories().get(status.timeline)
    return history is not None and history.end_of(position.timeline) is not None

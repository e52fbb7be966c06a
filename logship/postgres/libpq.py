"""libpq's non-blocking calls as awaitable ones, on asyncio's own readiness callbacks.

Follows libpq's "Asynchronous Command Processing" and "Functions Associated with the COPY
Command".  Only `psycopg.pq`, psycopg's public wrapper of libpq, is used.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Literal

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq.abc import PGconn, PGresult

from logship.errors import Code, LogshipError
from logship.postgres.conninfo import (
    addresses_of,
    attempt_timeout_seconds,
    describe,
    effective_options,
    joined,
    parse_conninfo,
    targets_of,
)
from logship.postgres.server_errors import (
    Doing,
    connection_lost,
    from_connect_failure,
    from_server,
)

END_OF_COPY: Final = "end of copy"
EndOfCopy = Literal["end of copy"]

_QUIET_BYTES: Final = 8 * 1024

# A peer that vanished is noticed after 25 s of silence, or 30 s of unacknowledged sending.
_KEEPALIVES: tuple[tuple[str, int, int], ...] = (
    ("keepalives_idle", socket.TCP_KEEPIDLE, 10),
    ("keepalives_interval", socket.TCP_KEEPINTVL, 5),
    ("keepalives_count", socket.TCP_KEEPCNT, 3),
    ("tcp_user_timeout", socket.TCP_USER_TIMEOUT, 30_000),
)


class LibpqConnection:
    """One connection, used by one task at a time; `close` may come from any task of the loop.

    A task that is cancelled while it waits leaves nothing registered with the loop.
    """

    def __init__(self, pgconn: PGconn, target: str) -> None:
        self.pgconn = pgconn
        self.target = target
        """`host:port` (or socket directory), for messages."""
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._reader_fd = -1
        self._writer_fd = -1
        self._closed = False
        self.is_drained = False
        """Whether `take_copy_data` gives nothing more before `readable`."""
        self._is_quiet = False
        """Little has come: another look at the socket would find nothing."""
        self._arrived: Callable[[], bool] | None = None

    @classmethod
    async def connect(
        cls, conninfo: str, parameters: Mapping[str, str], timeout_seconds: float
    ) -> LibpqConnection:
        """Connect to the first server of `conninfo` that takes us.

        `conninfo` is any libpq connection string or URI; `parameters` win over what stands
        in it.  Service files, passfiles and libpq's environment variables count.  Each
        address of each host is tried in turn for at most `timeout_seconds` (or
        `connect_timeout`, if that is less), and must satisfy `target_session_attrs`.

        Raises LogshipError: SETTINGS for a string libpq can't read, otherwise what the
        servers said (all of it in one sentence, retryable if any of it is).
        """
        given = {**parse_conninfo(conninfo), **parameters}
        effective = effective_options(given)
        timeout_seconds = attempt_timeout_seconds(effective, timeout_seconds)
        failures: list[LogshipError] = []
        for target in targets_of(effective):
            try:
                addresses = await addresses_of(target, timeout_seconds)
            except LogshipError as error:
                failures.append(error)
                continue
            for address in addresses:
                try:
                    return await cls._attempt({**given, **address}, timeout_seconds)
                except LogshipError as error:
                    failures.append(error)
        raise joined(failures)

    @classmethod
    async def _attempt(
        cls, parameters: Mapping[str, str], timeout_seconds: float
    ) -> LibpqConnection:
        target = describe(parameters)
        pgconn = pq.PGconn.connect_start(make_conninfo("", **parameters).encode())
        connection = cls(pgconn, target)
        try:
            async with asyncio.timeout(timeout_seconds):
                await connection._establish()
        except TimeoutError:
            connection.close()
            raise LogshipError(
                Code.PRIMARY_UNREACHABLE,
                f"can't connect to {target}: no answer within {timeout_seconds:g} s",
                "check that the server runs and that the way to it is open",
                retryable=True,
            ) from None
        except BaseException:
            connection.close()
            raise
        return connection

    async def _establish(self) -> None:
        status = self.pgconn.status
        if status == pq.ConnStatus.BAD:
            raise self._connect_failure()
        polled: int = pq.PollingStatus.WRITING  # as PQconnectStart's documentation asks
        while polled != pq.PollingStatus.OK:
            await self._wait(
                read=polled == pq.PollingStatus.READING, write=polled == pq.PollingStatus.WRITING
            )
            polled = self.pgconn.connect_poll()
            if polled == pq.PollingStatus.FAILED:
                raise self._connect_failure()
        self.pgconn.nonblocking = 1
        _keep_alive(self.pgconn)

    def _connect_failure(self) -> LogshipError:
        return from_connect_failure(
            self.pgconn.get_error_message(),
            self.target,
            needs_password=self.pgconn.needs_password,
            used_password=self.pgconn.used_password,
        )

    # --- commands -------------------------------------------------------------------------

    async def send(self, command: str) -> None:
        """Send one command; then take its results with `next_result`."""
        self.check_open()
        self.is_drained = False
        try:
            self.pgconn.send_query(command.encode())
        except psycopg.Error as error:
            raise self.lost(error) from error
        await self.flush()

    async def next_result(self, doing: Doing) -> PGresult | None:
        """The command's next result; None when it is over.  Raises what the server refused."""
        self.check_open()
        self.is_drained = False
        try:
            while self.pgconn.is_busy():
                await self._wait(read=True, write=False)
                self.pgconn.consume_input()
            result = self.pgconn.get_result()
        except psycopg.Error as error:
            raise self.lost(error) from error
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise self._server_error(result, doing)
        return result

    async def rows(self, command: str, doing: Doing) -> list[tuple[bytes | None, ...]]:
        """Run a command to its end and return its first result's rows.

        If it is cancelled, the connection is closed: nobody knows what is still to come.
        """
        rows: list[tuple[bytes | None, ...]] = []
        try:
            await self.send(command)
            refusal: LogshipError | None = None
            while True:
                try:
                    result = await self.next_result(doing)
                except LogshipError as error:
                    if self._closed or self.pgconn.status == pq.ConnStatus.BAD:
                        raise
                    refusal = (
                        refusal or error
                    )  # an ERROR leaves the session usable once it is drained
                    continue
                if result is None:
                    break
                rows.extend(result_rows(result))
        except asyncio.CancelledError:
            self.close()
            raise
        if refusal is not None:
            raise refusal
        return rows

    def _server_error(self, result: PGresult, doing: Doing) -> LogshipError:
        sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
        message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
        detail = result.error_field(pq.DiagnosticField.MESSAGE_DETAIL) or b""
        if not sqlstate:  # libpq's own words: the connection broke
            return connection_lost(self.target, result.get_error_message())
        return from_server(
            sqlstate.decode("ascii", "replace"),
            message.decode("utf-8", "replace"),
            detail.decode("utf-8", "replace"),
            doing,
            self.target,
        )

    # --- copy -----------------------------------------------------------------------------

    def take_copy_data(self) -> memoryview | EndOfCopy | None:
        """The next COPY message that libpq has, or can read at once; never waits.

        None: nothing there, and there won't be before `readable` returns.  END_OF_COPY: the
        server ended the COPY; take `next_result`.  The memory belongs to the view and lives as
        long as it or a slice of it does.
        """
        self.check_open()
        if self.is_drained:
            return None
        try:
            size, data = self.pgconn.get_copy_data(1)
            if size == 0 and not self._is_quiet:
                self.pgconn.consume_input()
                size, data = self.pgconn.get_copy_data(1)
        except psycopg.Error as error:
            raise self.lost(error) from error
        if size == -1:
            return END_OF_COPY
        self.is_drained = size == 0
        if self.is_drained or size > _QUIET_BYTES:
            self._is_quiet = False
        return data if size else None

    async def readable(self, arrived: Callable[[], bool] | None = None) -> None:
        """Wait until the server sent something (or the connection broke).

        arrived: called first, in the loop, when something came; true if that was all of it
        and the waiting goes on.  It may take what there is, and must not raise.
        """
        self.check_open()
        if not self.is_drained:
            return
        if self._waiter is not None:
            raise RuntimeError("two tasks wait on one replication connection")
        # The socket stays registered from one message to the next, but no longer than libpq
        # keeps it open (`lost`): its number may be another's right after.
        if self._reader_fd == -1:
            try:
                self._reader_fd = self.pgconn.socket
            except psycopg.Error as error:
                raise self.lost(error) from error
            self._loop.add_reader(self._reader_fd, self._read_on)
        self._arrived = arrived
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        except BaseException:
            self._forget_reader()
            raise
        finally:
            self._waiter = self._arrived = None

    def _read_on(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._forget_reader()  # nobody takes it now, and the loop would say so for ever
            return
        try:
            self.pgconn.consume_input()
        except psycopg.Error as error:
            self._forget_socket()
            waiter.set_exception(connection_lost(self.target, str(error)))
            return
        self.is_drained, self._is_quiet = False, True
        if self._arrived is None or not self._arrived():
            self.is_drained = self._is_quiet = False
            _wake(waiter)

    def put_copy_data(self, message: bytes) -> bool:
        """Queue a COPY message and send what can be sent; whether all of it went."""
        self.check_open()
        try:
            self.pgconn.put_copy_data(message)
            if self.pgconn.flush() == 0:
                return True
        except psycopg.Error as error:
            raise self.lost(error) from error
        self._look_again()
        return False

    def _look_again(self) -> None:
        """libpq reads too while it can't send (`pqSendSome`): the socket may be silent about it."""
        self.is_drained = False
        if self._waiter is not None:
            _wake(self._waiter)

    async def end_copy(self) -> None:
        """Say CopyDone."""
        self.check_open()
        self.stop_writer()
        try:
            self.pgconn.put_copy_end()
        except psycopg.Error as error:
            raise self.lost(error) from error
        await self.flush()

    async def flush(self) -> None:
        """Send everything queued.  Reads meanwhile, as a server that can't send may not read."""
        try:
            while self.pgconn.flush():
                await self._wait(read=True, write=True)
                self.pgconn.consume_input()
        except psycopg.Error as error:
            raise self.lost(error) from error

    # --- readiness ------------------------------------------------------------------------

    async def _wait(self, *, read: bool, write: bool) -> None:
        if self._waiter is not None:
            raise RuntimeError("two tasks wait on one replication connection")
        fd = self.pgconn.socket
        waiter = self._waiter = self._loop.create_future()
        if read:
            self._reader_fd = fd
            self._loop.add_reader(fd, _wake, waiter)
        if write:
            self._writer_fd = fd
            self._loop.add_writer(fd, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            self._forget_reader()
            if write:
                self.stop_writer()

    def start_writer(self, done: Callable[[], None]) -> None:
        """Send what is queued whenever the socket takes more, nobody waiting; then call `done`.

        `done` is not called if the connection breaks, which the next reader is told.
        """
        if self._writer_fd == -1 and not self._closed:
            self._writer_fd = self.pgconn.socket
            self._loop.add_writer(self._writer_fd, self._write_on, done)

    def _write_on(self, done: Callable[[], None]) -> None:
        if self._writer_fd == -1:
            return  # the loop had noted it for this turn before it was stopped
        try:
            remaining = self.pgconn.flush()
        except psycopg.Error as error:
            self.lost(error)
            return
        if remaining:
            self._look_again()
        else:
            self.stop_writer()
            done()

    @property
    def is_writing(self) -> bool:
        """Whether something queued still waits for the socket."""
        return self._writer_fd != -1

    def stop_writer(self) -> None:
        fd, self._writer_fd = self._writer_fd, -1
        if fd != -1:
            self._loop.remove_writer(fd)

    def _forget_reader(self) -> None:
        fd, self._reader_fd = self._reader_fd, -1
        if fd != -1:
            self._loop.remove_reader(fd)

    def _forget_socket(self) -> None:
        """Before its descriptor is closed, or right after: the number may soon be another's."""
        # With a writer beside, the loop asks epoll to go on for that one.  Of a descriptor that
        # is closed epoll knows nothing, and the loop drops both.
        with suppress(OSError):
            self._forget_reader()
        self.stop_writer()

    def lost(self, error: Exception) -> LogshipError:
        """What to raise when libpq fails: it may have closed the socket, which is not to be
        waited for any more.  Whoever does finds out as well."""
        self._forget_socket()
        self._look_again()
        return connection_lost(self.target, str(error))

    def check_open(self) -> None:
        """Raises LogshipError(PRIMARY_UNREACHABLE) once it was closed."""
        if self._closed:
            raise connection_lost(self.target, "it was closed on this side")

    def close(self) -> None:
        """Close at once.  Whoever waits on this connection gets PRIMARY_UNREACHABLE."""
        if self._closed:
            return
        self._closed = True
        self._forget_socket()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(connection_lost(self.target, "it was closed on this side"))
        self.pgconn.finish()


def result_rows(result: PGresult) -> list[tuple[bytes | None, ...]]:
    """A result's rows, as text; none if it has none."""
    if result.status != pq.ExecStatus.TUPLES_OK:
        return []
    return [
        tuple(result.get_value(row, column) for column in range(result.nfields))
        for row in range(result.ntuples)
    ]


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _keep_alive(pgconn: PGconn) -> None:
    """Notice a vanished peer, unless the string, the service or the environment says how."""
    if pgconn.host.startswith((b"/", b"@")) or not pgconn.host:
        return
    given = {option.keyword.decode() for option in pgconn.info if option.val is not None}
    with socket.socket(fileno=os.dup(pgconn.socket)) as same:
        if same.family not in (socket.AF_INET, socket.AF_INET6):
            return
        for name, option, value in _KEEPALIVES:
            if name not in given:
                same.setsockopt(socket.IPPROTO_TCP, option, value)

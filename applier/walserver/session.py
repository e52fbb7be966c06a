"""One client's connection, from its startup packet to its end.

The session speaks the protocol and keeps its order: startup, one query at a time, COPY in
both directions, errors that leave the session usable and errors that don't.  What a command
means is the `Role`'s business.  Sources: PostgreSQL documentation, "Message Flow";
`src/backend/tcop/backend_startup.c` and `postgres.c`.

The caller feeds bytes and time and performs what comes out:

    session.receive_data(data, now)      what arrived
    session.advance(now)                 time passed, or the source grew
    session.data_to_send()               write these, in order
    session.wants_answer                 after receive_data: false if none of this is new
    session.wal_wanted(now)              if not None: read it, then session.wal_read(…), or
                                         session.wal_announced(…) and write it yourself
    session.deadline                     call advance() then, at the latest
    session.closed                       write what is left and close

Back-pressure: take `data_to_send` and answer `wal_wanted` only while the client reads.
Until then queries wait unanswered (`input_blocked`: stop reading from the socket), so no
client can make the session hold more than `OUTPUT_LIMIT_BYTES` and one reply.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple, Protocol

from applier.walserver import codec
from applier.walserver.codec import SqlError
from applier.walserver.commands import Command, Empty, parse_command
from logship.errors import LogshipError
from logship.lsn import Lsn

STARTUP_TIMEOUT_SECONDS = 60.0
"""`authentication_timeout`'s default: how long a client may take to introduce itself."""

OUTPUT_LIMIT_BYTES = 256 * 1024
"""Replies not taken yet, past which no further query is answered."""


class WalRequest(NamedTuple):
    """Bytes that the role could send now."""

    timeline: int
    lsn: Lsn
    max_bytes: int


class Reply(NamedTuple):
    """What a command answers: messages, without the closing ReadyForQuery."""

    messages: list[bytes]
    starts_copy: bool = False


class Role(Protocol):
    """What stands behind the session.  Every method may raise SqlError.

    While `copying`, the session passes COPY messages and time on; when a method returns with
    `copying` false, the command is over.
    """

    server_version: str

    @property
    def copying(self) -> bool: ...
    @property
    def owes_reply(self) -> bool: ...

    def execute(self, command: Command, now: float) -> Reply: ...
    def copy_data(self, payload: bytes, now: float) -> list[bytes]: ...
    def copy_done(self, now: float) -> list[bytes]: ...
    def advance(self, now: float) -> list[bytes]: ...
    def wal_wanted(self, now: float) -> WalRequest | None: ...
    def wal_read(self, request: WalRequest, size_bytes: int, now: float) -> list[bytes]: ...
    def wal_failed(self, error: LogshipError, now: float) -> SqlError: ...
    def stop_copy(self) -> None: ...

    @property
    def deadline(self) -> float | None: ...


class Client(NamedTuple):
    """Who connects, from its startup packet."""

    user: str
    application_name: str
    replication: str
    """The `replication` parameter as it was given, "" if it was not."""


class SessionState(Enum):
    STARTUP = auto()
    READY = auto()
    """Between commands."""
    COPY = auto()
    SKIPPING = auto()
    """After an error in an extended query: everything up to Sync is void."""
    CLOSED = auto()


_NEXT_STATES = {
    SessionState.STARTUP: {SessionState.READY, SessionState.CLOSED},
    SessionState.READY: {SessionState.COPY, SessionState.SKIPPING, SessionState.CLOSED},
    SessionState.COPY: {SessionState.READY, SessionState.CLOSED},
    SessionState.SKIPPING: {SessionState.READY, SessionState.CLOSED},
    SessionState.CLOSED: set[SessionState](),
}

_BOOLEANS = {"true", "on", "yes", "1", "t", "y"}


class Session:
    """See the module.

    open_role: gives the role for a client or raises SqlError to turn it away; called once,
    after the startup packet.  secret: bytes for the cancellation key (32), which nothing
    here can be cancelled with, but clients expect to get one.
    """

    def __init__(
        self,
        open_role: Callable[[Client], Role],
        *,
        process_id: int,
        secret: bytes,
        now: float,
    ) -> None:
        self.state = SessionState.STARTUP
        self.role: Role | None = None
        self._open_role = open_role
        self._process_id = process_id
        self._secret = secret
        self._startup_deadline = now + STARTUP_TIMEOUT_SECONDS
        self._decoder = codec.FrontendDecoder()
        self._output: list[bytes] = []
        self._output_bytes = 0

    @property
    def closed(self) -> bool:
        return self.state is SessionState.CLOSED

    @property
    def input_blocked(self) -> bool:
        """Whether queries wait for earlier replies to be taken: read no more for now."""
        return self._output_bytes >= OUTPUT_LIMIT_BYTES

    @property
    def wants_answer(self) -> bool:
        """Whether what was received changes what is to be sent: a standby's mere reports don't."""
        copying = self.state is SessionState.COPY and self.role is not None
        return not copying or bool(self._output) or (self.role is not None and self.role.owes_reply)

    @property
    def deadline(self) -> float | None:
        if self.state is SessionState.STARTUP:
            return self._startup_deadline
        if self.state is SessionState.COPY and self.role is not None:
            return self.role.deadline
        return None

    def receive_data(self, data: bytes, now: float) -> None:
        if not self.closed:
            self._decoder.feed(data)
            self._process_input(now)

    def advance(self, now: float) -> None:
        """Act on time and on a source that may have grown; answer queries that waited."""
        if self.state is SessionState.STARTUP and now >= self._startup_deadline:
            self._close()
        elif self.state is SessionState.COPY and self.role is not None:
            self._in_copy(lambda role: role.advance(now))
        if not self.closed:
            self._process_input(now)

    def data_to_send(self) -> list[bytes]:
        """What to write, in order.  Call `advance` after writing if `input_blocked` was set."""
        output, self._output = self._output, []
        self._output_bytes = 0
        return output

    def wal_wanted(self, now: float) -> WalRequest | None:
        """What to read and pass to `wal_read`, `wal_announced` or `wal_failed`; None: wait.

        Ask again only after answering, and only when the client takes what is sent.
        """
        if self.state is not SessionState.COPY or self.role is None:
            return None
        return self.role.wal_wanted(now)

    def wal_read(self, request: WalRequest, data: bytes, now: float) -> None:
        if self.wal_announced(request, len(data), now):
            self._send(data)

    def wal_announced(self, request: WalRequest, size_bytes: int, now: float) -> bool:
        """As `wal_read`, for bytes that don't come through here: true if `data_to_send` ends
        with their header now.  The bytes must follow it before anything else is written."""
        if self.state is not SessionState.COPY or not size_bytes:
            return False
        before = len(self._output)
        self._in_copy(lambda role: role.wal_read(request, size_bytes, now))
        return len(self._output) > before

    def wal_failed(self, error: LogshipError, now: float) -> None:
        """The read asked for can't be done: the client is told, and the COPY ends."""
        if self.state is SessionState.COPY and self.role is not None:
            self._fail(self.role.wal_failed(error, now))

    def shut_down(self) -> None:
        """Say goodbye as a stopping server does (57P01) and close."""
        if not self.closed:
            message = "terminating connection: this WAL server is stopping"
            self._fail(SqlError("57P01", message, fatal=True))

    def _process_input(self, now: float) -> None:
        while self._decoder.buffered_bytes and not self.closed:
            # Inside COPY a standby's reports are read however little of our output it takes:
            # they cost no output and are what the lag is measured by.
            if self.input_blocked and self.state is not SessionState.COPY:
                return
            try:
                message = self._decoder.next_message()
                if message is None:
                    return
                self._receive(message, now)
            except SqlError as error:
                self._fail(error)

    def _receive(self, message: codec.Message, now: float) -> None:
        if isinstance(message, codec.Terminate | codec.CancelRequest):
            self._close()
        elif self.state is SessionState.STARTUP:
            self._receive_startup(message)
        elif self.state is SessionState.COPY:
            self._receive_copy(message, now)
        elif isinstance(message, codec.Sync):
            self._send(codec.ready_for_query())
            if self.state is SessionState.SKIPPING:
                self._become(SessionState.READY)
        elif self.state is SessionState.READY:
            self._receive_ready(message, now)

    def _receive_startup(self, message: codec.Message) -> None:
        if isinstance(message, codec.EncryptionRequest):
            self._send(b"N")  # A unix socket: there is nothing between us to encrypt from.
            return
        if not isinstance(message, codec.Startup):
            raise AssertionError(f"{message!r} from a decoder that has seen no startup packet")
        self.role = self._open_role(_client(message))
        version = message.protocol
        if version != codec.PROTOCOL_3_0:
            newer = version >= codec.PROTOCOL_3_2
            version = codec.PROTOCOL_3_2 if newer else codec.PROTOCOL_3_0
        unrecognized = [name for name in message.parameters if name.startswith("_pq_.")]
        if version != message.protocol or unrecognized:
            self._send(codec.negotiate_protocol_version(version, unrecognized))
        self._send(codec.authentication_ok())
        for name, value in _reported_parameters(message.parameters, self.role.server_version):
            self._send(codec.parameter_status(name, value))
        secret = self._secret if version == codec.PROTOCOL_3_2 else self._secret[:4]
        self._send(codec.backend_key_data(self._process_id, secret))
        self._send(codec.ready_for_query())
        self._become(SessionState.READY)

    def _receive_ready(self, message: codec.Message, now: float) -> None:
        if isinstance(message, codec.CopyData | codec.CopyDone | codec.CopyFail):
            return  # A client still sending after its COPY failed; postgres.c ignores it too.
        if isinstance(message, codec.Unserved):
            if message.kind != "H":
                self._become(SessionState.SKIPPING)
                raise SqlError(
                    "08P01", "extended query protocol not supported in a replication connection"
                )
            return
        if not isinstance(message, codec.Query) or self.role is None:
            raise AssertionError(f"{message!r} between commands")
        command = parse_command(message.text)
        if isinstance(command, Empty):
            self._send(codec.empty_query_response())
        else:
            reply = self.role.execute(command, now)
            for part in reply.messages:
                self._send(part)
            if reply.starts_copy:
                self._become(SessionState.COPY)
                return
        self._send(codec.ready_for_query())

    def _receive_copy(self, message: codec.Message, now: float) -> None:
        if isinstance(message, codec.CopyData):
            payload = message.payload
            self._in_copy(lambda role: role.copy_data(payload, now))
        elif isinstance(message, codec.CopyDone):
            self._in_copy(lambda role: role.copy_done(now))
        elif isinstance(message, codec.CopyFail):
            raise SqlError("57014", f"COPY from the standby failed: {message.reason}")
        elif not (isinstance(message, codec.Sync) or message == codec.Unserved("H")):
            # "Flush and Sync are ignored during COPY" (Message Flow, COPY Operations).
            raise codec.protocol_violation(f"unexpected message {message!r:.60} inside COPY")

    def _in_copy(self, act: Callable[[Role], list[bytes]]) -> None:
        role = self.role
        if role is None:
            raise AssertionError("COPY without a role")
        try:
            for part in act(role):
                self._send(part)
        except SqlError as error:
            self._fail(error)
            return
        if not role.copying:
            self._send(codec.ready_for_query())
            self._become(SessionState.READY)

    def _fail(self, error: SqlError) -> None:
        """Tell the client; what follows depends on what was going on."""
        fatal = error.fatal or self.state is SessionState.STARTUP
        if fatal and not error.fatal:
            error = SqlError(
                error.sqlstate, error.message, detail=error.detail, hint=error.hint, fatal=True
            )
        self._send(codec.error_response(error))
        if fatal:
            self._close()
            return
        if self.state is SessionState.COPY and self.role is not None:
            self.role.stop_copy()
            self._become(SessionState.READY)
        if self.state is SessionState.READY:
            self._send(codec.ready_for_query())

    def _send(self, data: bytes) -> None:
        self._output.append(data)
        self._output_bytes += len(data)

    def _close(self) -> None:
        if self.state is SessionState.COPY and self.role is not None:
            self.role.stop_copy()
        self._become(SessionState.CLOSED)

    def _become(self, state: SessionState) -> None:
        if state not in _NEXT_STATES[self.state]:
            raise AssertionError(f"a session can't go from {self.state.name} to {state.name}")
        self.state = state


def _client(startup: codec.Startup) -> Client:
    parameters = startup.parameters
    if not parameters.get("user"):
        raise SqlError("28000", "no PostgreSQL user name specified in startup packet", fatal=True)
    replication = parameters.get("replication", "")
    if replication.lower() not in _BOOLEANS:
        raise SqlError(
            "0A000",
            "this is a WAL server: it serves connections for physical replication only",
            hint="Set it as primary_conninfo of a standby, or connect with replication=true.",
            fatal=True,
        )
    return Client(parameters["user"], parameters.get("application_name", ""), replication)


def _reported_parameters(parameters: dict[str, str], server_version: str) -> list[tuple[str, str]]:
    """What a server reports after authentication (Message Flow, Asynchronous Operations)."""
    return [
        ("server_version", server_version),
        ("server_encoding", "UTF8"),
        ("client_encoding", parameters.get("client_encoding", "UTF8")),
        ("application_name", parameters.get("application_name", "")),
        ("default_transaction_read_only", "off"),
        ("in_hot_standby", "on"),
        ("is_superuser", "off"),
        ("session_authorization", parameters["user"]),
        ("DateStyle", "ISO, MDY"),
        ("IntervalStyle", "postgres"),
        ("TimeZone", "UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
    ]

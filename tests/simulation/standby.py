"""The standby: what of PostgreSQL's walreceiver and startup process decides which WAL it gets.

Sources: `WalReceiverMain`, `WalRcvFetchTimeLineHistoryFiles` (walreceiver.c),
`RequestXLogStreaming` (walreceiverfuncs.c), `rescanLatestTimeLine` (xlogrecovery.c).  It
replays at once whatever it receives, and its own disk loses nothing.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from contextvars import Context
from itertools import pairwise
from typing import Any

from applier.walserver.connection import Connection
from logship.lsn import Lsn
from logship.wal import History, parse_history, segment_start
from tests.simulation.cluster import SEGMENT_BYTES, Wal
from tests.simulation.loop import SimLoop
from tests.unit.applier.walserver import transcript

RETRY_SECONDS = 5.0
"""`wal_retrieve_retry_interval`."""
_CREDENTIALS = struct.Struct("=iII")


class SimConnection(Connection):
    """Hashes by number, as the WAL server keeps its connections in a set."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class Transport(asyncio.Transport):
    """The server's end of the unix socket."""

    def __init__(self, loop: SimLoop, client: WalReceiver) -> None:
        super().__init__()
        self._loop = loop
        self._client = client
        self._at = 0.0
        self.closed = False
        self.connection: SimConnection | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self

    def getsockopt(self, *_: int) -> bytes:
        return _CREDENTIALS.pack(4711, 0, 0)

    def set_write_buffer_limits(self, high: Any = None, low: Any = None) -> None:
        """Nothing is buffered here."""

    def write(self, data: Any) -> None:
        self._send(bytes(data))

    def writelines(self, chunks: Any) -> None:
        chunks = [bytes(chunk) for chunk in chunks]
        connection = self.connection
        for header, data in pairwise(chunks):
            if len(header) == 30 and header[:1] == b"d" and header[5:6] == b"w":
                (start,) = struct.unpack_from("!Q", header, 6)
                assert connection is not None and connection.role is not None
                timeline = connection.role.timeline
                self._client.on_served(self._client.instance, timeline, start, data)
        self._send(b"".join(chunks))

    def _send(self, data: bytes) -> None:
        if not self.closed:
            self._at = max(self._at, self._loop.now + 0.0002)
            self._loop.at(self._at, self._client.receive, self, data)

    def pause_reading(self) -> None:
        self._client.paused = True

    def resume_reading(self) -> None:
        self._client.paused = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            at = max(self._at, self._loop.now + 0.0002)
            self._loop.at(at, self._client.hung_up, self)

    abort = close


class WalReceiver:
    """One standby server with a data directory; starts, streams, gets stuck, is opened."""

    def __init__(self, loop: SimLoop, instance: str, server: Callable[[], Any]) -> None:
        self.instance = instance
        self.seed_id = ""
        self.running = False
        self.opened: tuple[int, int] | None = None
        self.paused = False
        self.timeline = 0
        self.replayed = 0
        self.wal: dict[int, Wal] = {}
        self.histories: dict[int, bytes] = {}
        self.on_wal: Callable[[WalReceiver, int, int, bytes], None] = lambda *_: None
        self.on_served: Callable[[str, int, int, bytes], None] = lambda *_: None
        self.complaint = ""
        self._loop = loop
        self._server = server
        """Gives (WalServer, context) of the applier that runs, or None."""
        self._numbers = 0
        self._transport: Transport | None = None
        self._connection: SimConnection | None = None
        self._context: Context | None = None
        self._buffer = b""
        self._expect: Callable[[str, bytes], None] = lambda kind, body: None
        self._streaming = 0
        self._fetching: list[int] = []
        self._told_end = False

    # --- life -------------------------------------------------------------------------------

    def seeded(self, seed_id: str, timeline: int, start_lsn: int, histories: Any) -> None:
        """A new data directory: replay starts at `start_lsn`."""
        assert not self.running
        self.seed_id = seed_id
        self.timeline = timeline
        self.replayed = start_lsn
        self.wal = {}
        self.histories = dict(histories)
        self.opened = None

    def start(self) -> None:
        if not self.running and self.seed_id:
            self.running = True
            self._later(0.05)

    def stop(self) -> None:
        self.running = False
        self._disconnect()

    def history(self, timeline: int) -> History:
        content = self.histories.get(timeline)
        return History(timeline, ()) if content is None else parse_history(timeline, content)

    def promote(self) -> tuple[int, int]:
        newest = max([self.timeline, *self.histories])
        self.opened = (newest + 1, self.replayed)
        self._disconnect()
        return self.opened

    # --- connection -------------------------------------------------------------------------

    def _later(self, seconds: float) -> None:
        self._numbers += 1
        self._loop.at(self._loop.now + seconds, self._connect, self._numbers)

    def _connect(self, number: int) -> None:
        if number != self._numbers or not self.running or self.opened:
            return
        found = self._server()
        if found is None:
            self._later(RETRY_SECONDS)
            return
        wal_server, self._context = found
        self._transport = Transport(self._loop, self)
        self._buffer = b""
        self._streaming = 0
        self._told_end = False
        transport = self._transport

        def made() -> None:
            if transport.closed:
                return  # hung up before a frozen applier came to accept it
            connection = SimConnection.__new__(SimConnection)
            connection.number = self._numbers
            connection.__init__(wal_server)  # type: ignore[misc]
            self._connection = transport.connection = connection
            connection.connection_made(transport)

        self._in_applier(made)
        self._expect = self._started
        self._send(
            transcript.startup(
                user=self.instance, replication="true", application_name=self.instance
            )
        )

    def _in_applier(self, act: Callable[..., Any], *args: Any) -> None:
        self._loop.call_at(self._loop.now + 0.0001, act, *args, context=self._context)

    def _send(self, data: bytes) -> None:
        transport = self._transport

        def arrive() -> None:
            if transport is self._transport and self._connection and not self._connection._closing:
                self._connection.data_received(data)

        self._in_applier(arrive)

    def _disconnect(self) -> None:
        transport, self._transport = self._transport, None
        self._numbers += 1
        if transport is not None:
            transport.closed = True
        if transport is not None and self._connection is not None:
            connection, self._connection = self._connection, None

            def lost() -> None:
                if not connection.departed.done():
                    connection.connection_lost(None)

            self._in_applier(lost)

    def hung_up(self, transport: Transport) -> None:
        if transport is self._transport:
            self._disconnect()
            self._later(RETRY_SECONDS)

    def server_died(self) -> None:
        """The applier's process is gone, and the socket with it."""
        if self._transport is not None:
            self._transport = self._connection = None
            self._later(RETRY_SECONDS)

    def _give_up(self, complaint: str) -> None:
        self.complaint = complaint
        self._disconnect()
        self._later(RETRY_SECONDS)

    # --- the protocol -----------------------------------------------------------------------

    def receive(self, transport: Transport, data: bytes) -> None:
        if transport is not self._transport:
            return
        self._buffer += data
        while transport is self._transport and len(self._buffer) >= 5:
            (length,) = struct.unpack_from("!I", self._buffer, 1)
            if len(self._buffer) < 1 + length:
                return
            kind, body = self._buffer[:1].decode(), self._buffer[5 : 1 + length]
            self._buffer = self._buffer[1 + length :]
            if kind == "E":
                self._give_up(transcript._line(kind, body))
            else:
                self._expect(kind, body)

    def _started(self, kind: str, body: bytes) -> None:
        if kind == "Z":
            self._expect = self._identified
            self._send(transcript.query("IDENTIFY_SYSTEM"))

    def _identified(self, kind: str, body: bytes) -> None:
        if kind == "D":
            _, timeline, _, _ = transcript._values(body)
            if int(timeline) < self.timeline:
                self._give_up(f"highest timeline {timeline} of the primary is behind")
                return
            wanted = range(self.timeline, int(timeline) + 1)
            self._fetching = [tli for tli in wanted if tli > 1 and tli not in self.histories]
        elif kind == "Z":
            self._fetch()

    def _fetch(self) -> None:
        if self._fetching:
            self._expect = self._fetched
            self._send(transcript.query(f"TIMELINE_HISTORY {self._fetching[0]}"))
        else:
            self._start_streaming()

    def _fetched(self, kind: str, body: bytes) -> None:
        if kind == "D":
            at = 2
            (length,) = struct.unpack_from("!I", body, at)
            at += 4 + length
            (length,) = struct.unpack_from("!I", body, at)
            self.histories[self._fetching.pop(0)] = body[at + 4 : at + 4 + length]
        elif kind == "Z":
            self._fetch()

    def _rescan(self) -> None:
        """`recovery_target_timeline = 'latest'`: follow the newest child, if we are on it."""
        newest = max([self.timeline, *self.histories])
        if newest == self.timeline:
            return
        history = self.history(newest)
        end = history.end_of(self.timeline)
        if end is None:
            self.complaint = f"timeline {newest} is no child of {self.timeline}"
        elif end < self.replayed:
            self.complaint = f"timeline {newest} forked off at {end}, before {self.replayed}"
        else:
            self.timeline = newest

    def _start_streaming(self) -> None:
        self._rescan()
        timeline = self.history(self.timeline).timeline_at(self.replayed)
        start = segment_start(self.replayed, SEGMENT_BYTES)
        self._streaming = timeline
        self._told_end = False
        self._at = int(start)
        self._expect = self._streamed
        self._send(transcript.query(f"START_REPLICATION {Lsn(start)} TIMELINE {timeline}"))

    def _streamed(self, kind: str, body: bytes) -> None:
        if kind == "W":
            self._report()
        elif kind == "d" and body[:1] == b"w":
            (start,) = struct.unpack_from("!Q", body, 1)
            self._write(start, body[25:])
            self._report()
        elif kind == "d" and body[:1] == b"k":
            if body[-1]:
                self._report()
        elif kind == "c":
            self._told_end = True
            self._send(transcript.copy_done())
        elif kind == "Z":
            # The startup process looks again, and asks for what comes next.
            identity = max([self.timeline, *self.histories])
            before = self.timeline
            self._rescan()
            if self.timeline == before and identity == before:
                self._expect = self._identified
                self._send(transcript.query("IDENTIFY_SYSTEM"))
            elif self.timeline == before:
                self._give_up(self.complaint)
            else:
                self._start_streaming()

    def _write(self, start: int, data: bytes) -> None:
        timeline = self._streaming
        assert start == self._at, f"streamed {Lsn(start)}, {Lsn(self._at)} was next"
        self._at = start + len(data)
        self.on_wal(self, timeline, start, data)
        wal = self.wal.get(timeline)
        if wal is None:
            wal = self.wal[timeline] = Wal(start)
        del wal.data[start - wal.start :]
        wal.data += data
        self.replayed = max(self.replayed, self._at)

    def _report(self) -> None:
        if self.running:
            self._send(transcript.report(self._at, self._at, self.replayed))

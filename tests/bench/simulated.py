"""`python -m tests.bench.simulated PLAN`: many idle shippers, and standbys, in one process.

The shippers are real sessions over CURVE, each with its own key and connection: they say hello,
send a page of WAL, and then what a heartbeat says.  The standbys are connections to the WAL server
that report as an idle walreceiver does.  What they cost is not the applier's, so all of them
share one process and one ZeroMQ context.  "ready" is printed when all WAL is durable and every
standby streams; one that is lost ends the process.
"""

from __future__ import annotations

import asyncio
import signal
import struct
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import zmq

from logship.errors import LogshipError
from logship.frames import (
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    Hello,
    Payload,
    ShipperHeartbeat,
)
from logship.identity import Profile
from logship.link import events
from logship.link.alarm import Alarm
from logship.link.pump import Pump, configure, contents, send_now
from logship.link.shipper_session import ShipperSession
from logship.lsn import Lsn
from logship.seal import seal
from logship.wal import WalLine
from tests.support.wal_factory import WalFactory

_REPLICATION_PROTOCOL = 3 << 16
_STATUS = struct.Struct("!cIcQQQqB")
_REPLY_WANTED_AT = 17
"""Offset of a keepalive's last byte: type, end of WAL, time, whether a reply is wanted."""
_GREETED_AT_ONCE = 32
_WAL_BYTES = 8192


class SimulatedInstance(msgspec.Struct, frozen=True, kw_only=True):
    """name, and the keys of its shipper.  The applier has all its primary wrote, up to `lsn`."""

    name: str
    public_key: str
    secret_key: str
    timeline: int
    lsn: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """endpoint, applier_public_key: of the link.  profile: of every primary.  wal_server: the
    socket at which every instance's standby reports each `report_seconds`; "": there are none,
    or they are real."""

    endpoint: str
    applier_public_key: str
    profile: Profile
    instances: list[SimulatedInstance]
    wal_server: str = ""
    report_seconds: float = 1.0


class _Shipper:
    def __init__(self, plan: Plan, instance: SimulatedInstance, context: zmq.Context) -> None:  # type: ignore[type-arg]
        self._loop = asyncio.get_running_loop()
        self._instance = instance
        self._lsn = instance.lsn
        self._line = WalLine(
            plan.profile.system_identifier, plan.profile.major, plan.profile.wal_segment_size
        )
        self.stored: asyncio.Future[int] = self._loop.create_future()
        """Where its WAL ends that was sent last, once that is durable."""
        self._socket = socket = context.socket(zmq.DEALER)
        configure(socket)
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, plan.applier_public_key)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, instance.public_key)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, instance.secret_key)
        self._pump = Pump(socket, self._received)
        self._alarm = Alarm(self._on_timer)
        hello = Hello(
            version_min=OLDEST_PROTOCOL_VERSION,
            version_max=PROTOCOL_VERSION,
            instance=instance.name,
            shipper_id=f"shipper-{instance.name}",
            boot_id="simulated",
            software="simulated",
            profile=plan.profile,
            timeline=instance.timeline,
            flush_lsn=instance.lsn,
        )
        self._session = ShipperSession(hello, now=self._loop.time())
        socket.connect(plan.endpoint)
        self._take(self._session.start(self._loop.time()))

    def _received(self, frames: list[zmq.Frame]) -> None:
        parts: list[Payload] = contents(frames)
        self._take(self._session.receive(parts, self._loop.time()))

    def _on_timer(self) -> None:
        self._take(self._session.timer(self._loop.time()))

    def _take(self, outputs: list[events.ShipperOutput]) -> None:
        for output in outputs:
            match output:
                case events.Send():
                    send_now(self._socket, output.parts())
                    self._pump.after_send()
                case events.HeartbeatDue():
                    self._heartbeat()
                case events.Welcomed():
                    self._send_wal()
                case events.LinkLost(error) | events.Refused(error):
                    raise error
                case events.Acked(durable=durable):
                    if durable == self._session.sent and not self.stored.done():
                        self.stored.set_result(self._lsn)
                case _:
                    pass  # an idle primary's shipper has nothing to do with it
        self._alarm.set(self._session.deadline)

    def _send_wal(self) -> None:
        """Once, so that the applier has everything that it makes for an instance which works."""
        timeline, start = self._instance.timeline, self._lsn
        self._lsn = start + _WAL_BYTES
        sealed = seal(WalFactory(self._line).wal(timeline, start, self._lsn))
        now = self._loop.time()
        self._take([self._session.span(timeline, start, sealed, now, flush_lsn=self._lsn)])

    def _heartbeat(self) -> None:
        frame = ShipperHeartbeat(
            timeline=self._instance.timeline,
            flush_lsn=self._lsn,
            sent_at=time.time(),
            sync_state="async",
            slot_wal_status="reserved",
        )
        self._take([self._session.heartbeat(frame, self._loop.time())])


class _Standby(asyncio.Protocol):
    """Says what libpqwalreceiver.c says, and then what walreceiver.c does."""

    def __init__(self, instance: SimulatedInstance, lsn: int, report_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._instance = instance
        self._lsn = lsn
        self._report_seconds = report_seconds
        self._input = bytearray()
        self.streams: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        name = self._instance.name
        said = {"user": name, "application_name": name, "replication": "true"}
        words = "".join(f"{key}\0{value}\0" for key, value in said.items()).encode() + b"\0"
        transport.write(struct.pack("!II", len(words) + 8, _REPLICATION_PROTOCOL) + words)

    def data_received(self, data: bytes) -> None:
        self._input += data
        while len(self._input) >= 5:
            kind, size_bytes = struct.unpack_from("!cI", self._input)
            if len(self._input) <= size_bytes:
                return
            body = bytes(self._input[5 : 1 + size_bytes])
            del self._input[: 1 + size_bytes]
            self._message(kind, body)

    def _message(self, kind: bytes, body: bytes) -> None:
        instance = self._instance
        if kind == b"Z":  # ready for a query
            command = f"START_REPLICATION {Lsn(self._lsn)} TIMELINE {instance.timeline}\0".encode()
            self._transport.write(b"Q" + struct.pack("!I", len(command) + 4) + command)
        elif kind == b"W":  # CopyBoth
            self._report_again_and_again()
            self.streams.set_result(None)
        elif kind == b"d" and body[:1] == b"k" and body[_REPLY_WANTED_AT]:
            self._report()
        elif kind == b"E":
            raise ConnectionError(f"{instance.name}: {body!r}")

    def _report_again_and_again(self) -> None:
        self._report()
        self._loop.call_later(self._report_seconds, self._report_again_and_again)

    def _report(self) -> None:
        lsn = self._lsn
        self._transport.write(_STATUS.pack(b"d", _STATUS.size - 1, b"r", lsn, lsn, lsn, 0, 0))

    def connection_lost(self, exc: Exception | None) -> None:
        raise ConnectionError(f"{self._instance.name}: the WAL server is gone")


async def _run(plan: Plan) -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def failed(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        if not ended.done():
            ended.set_exception(RuntimeError(str(context.get("exception") or context)))

    def stop() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.set_exception_handler(failed)
    loop.add_signal_handler(signal.SIGTERM, stop)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, len(plan.instances) + 16)
    ready = loop.create_task(_connect(plan, context))
    await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        ready.result()
        print("ready", flush=True)
    await ended
    context.destroy(linger=0)


async def _connect(plan: Plan, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    loop = asyncio.get_running_loop()
    turns = asyncio.Semaphore(_GREETED_AT_ONCE)

    async def connect(instance: SimulatedInstance) -> None:
        async with turns:
            lsn = await _Shipper(plan, instance, context).stored
            if plan.wal_server:
                made = partial(_Standby, instance, lsn, plan.report_seconds)
                _, standby = await loop.create_unix_connection(made, plan.wal_server)
                await standby.streams

    await asyncio.gather(*map(connect, plan.instances))


def main() -> int:
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    try:
        asyncio.run(_run(plan))
    except (LogshipError, RuntimeError) as error:
        print(f"failed: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Dealer and Router over real ZeroMQ: who gets in, what is said when not, what is bounded."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import zmq

from logship.errors import Code, LogshipError
from logship.frames import MAX_PAYLOAD_BYTES, Payload
from logship.link.keys import KeyPair
from logship.link.transport import Dealer, Peer, Router
from tests.support.proxy import TcpProxy


def new_keys() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


SERVER, CLIENT, STRANGER = new_keys(), new_keys(), new_keys()


class Listener:
    """A Router that remembers what it was told."""

    def __init__(self, *, keys: KeyPair = SERVER, allowed: KeyPair = CLIENT) -> None:
        self.messages: asyncio.Queue[tuple[Peer, list[Payload]]] = asyncio.Queue()
        self.gone: asyncio.Queue[Peer] = asyncio.Queue()
        self.denied: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.router = Router(
            keys=keys,
            allowed_public_keys=[allowed.public],
            on_message=lambda peer, parts: self.messages.put_nowait((peer, parts)),
            on_gone=self.gone.put_nowait,
            on_denied=lambda key, address: self.denied.put_nowait((key, address)),
        )
        self.endpoint = self.router.bind("tcp://127.0.0.1:0")
        self.port = int(self.endpoint.rpartition(":")[2])


class Caller:
    """A Dealer that remembers what it was told."""

    def __init__(self, endpoint: str, *, keys: KeyPair = CLIENT, server: KeyPair = SERVER) -> None:
        self.messages: asyncio.Queue[list[Payload]] = asyncio.Queue()
        self.closed: asyncio.Queue[LogshipError] = asyncio.Queue()
        self.dealer = Dealer(
            endpoint,
            server_public_key=server.public,
            keys=keys,
            on_message=self.messages.put_nowait,
            on_closed=self.closed.put_nowait,
        )


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener()
    yield listener
    listener.router.close()


async def refused(caller: Caller, timeout_seconds: float = 5) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        await caller.dealer.connect(timeout_seconds)
    return caught.value


async def test_messages_pass_both_ways_and_name_the_key(listener: Listener) -> None:
    caller = Caller(listener.endpoint)
    await caller.dealer.connect(5)
    caller.dealer.send([b"head", b"x" * 100_000])
    peer, parts = await asyncio.wait_for(listener.messages.get(), 5)
    assert peer.public_key == CLIENT.public
    assert peer.address == "127.0.0.1"
    assert [bytes(part) for part in parts] == [b"head", b"x" * 100_000]
    listener.router.send(peer, [b"ack"])
    assert await asyncio.wait_for(caller.messages.get(), 5) == [b"ack"]
    caller.dealer.close()


async def test_order_holds_through_thousands_of_messages_sent_at_once(listener: Listener) -> None:
    caller = Caller(listener.endpoint)
    await caller.dealer.connect(5)
    for number in range(5000):
        caller.dealer.send([number.to_bytes(4, "big")])
    async with asyncio.timeout(20):
        for number in range(5000):
            peer, parts = await listener.messages.get()
            assert bytes(parts[0]) == number.to_bytes(4, "big")
            listener.router.send(peer, parts)
        for number in range(5000):
            assert await caller.messages.get() == [number.to_bytes(4, "big")]
    caller.dealer.close()


async def test_a_callback_that_raises_does_not_stall_what_follows() -> None:
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    def on_message(peer: Peer, parts: list[Payload]) -> None:
        seen.put_nowait(bytes(parts[0]))
        if parts[0] == b"0":
            raise RuntimeError("planted")

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: reported.append(context.get("exception"))
    )
    router = Router(
        keys=SERVER,
        allowed_public_keys=[CLIENT.public],
        on_message=on_message,
        on_gone=lambda peer: None,
    )
    caller = Caller(router.bind("tcp://127.0.0.1:0"))
    await caller.dealer.connect(5)
    for number in range(3):
        caller.dealer.send([str(number).encode()])
    assert [await asyncio.wait_for(seen.get(), 5) for _ in range(3)] == [b"0", b"1", b"2"]
    assert [str(error) for error in reported] == ["planted"]
    caller.dealer.close()
    router.close()


async def test_an_unknown_key_is_refused_and_both_sides_can_say_so(listener: Listener) -> None:
    error = await refused(Caller(listener.endpoint, keys=STRANGER))
    assert error.code is Code.LINK_AUTHENTICATION
    assert STRANGER.public in error.what
    assert "--public-key-file" in error.hint
    assert await asyncio.wait_for(listener.denied.get(), 5) == (STRANGER.public, "127.0.0.1")


async def test_a_key_can_be_allowed_and_withdrawn_while_listening(listener: Listener) -> None:
    listener.router.allow([STRANGER.public])
    caller = Caller(listener.endpoint, keys=STRANGER)
    await caller.dealer.connect(5)
    caller.dealer.close()
    listener.router.allow([])
    error = await refused(Caller(listener.endpoint, keys=STRANGER))
    assert error.code is Code.LINK_AUTHENTICATION


async def test_a_wrong_server_key_is_named_as_such(listener: Listener) -> None:
    error = await refused(Caller(listener.endpoint, server=STRANGER))
    assert error.code is Code.LINK_AUTHENTICATION
    assert STRANGER.public in error.what
    assert "applier's public key" in error.what


async def test_a_client_without_a_key_gets_nothing_through(listener: Listener) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
        plain.linger = 0
        plain.connect(listener.endpoint)
        plain.send(b"hello")
        # A known key that connects afterwards is served, and is all that is.
        caller = Caller(listener.endpoint)
        await caller.dealer.connect(5)
        caller.dealer.send([b"first"])
        _, parts = await asyncio.wait_for(listener.messages.get(), 5)
        assert parts == [b"first"]
        assert listener.messages.empty()
        caller.dealer.close()


async def test_nobody_listening_is_told_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = await refused(Caller(f"tcp://127.0.0.1:{unused.getsockname()[1]}"))
    assert error.code is Code.APPLIER_UNREACHABLE
    assert error.retryable


async def test_a_listener_that_never_answers_runs_into_the_timeout() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        error = await refused(Caller(f"tcp://127.0.0.1:{deaf.getsockname()[1]}"), 0.3)
    assert error.code is Code.APPLIER_UNREACHABLE
    assert "0.3 s" in error.what


async def test_a_host_that_does_not_exist_is_named() -> None:
    error = await refused(Caller("tcp://no-such-host.invalid:7432"), 20)
    assert error.code is Code.APPLIER_UNREACHABLE
    assert "no-such-host.invalid" in error.what


async def test_another_program_on_the_port_is_recognised() -> None:
    async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + b"-" * 64)
        writer.close()

    server = await asyncio.start_server(speak_http, "127.0.0.1", 0)
    async with server:
        error = await refused(Caller(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    assert error.code in (Code.LINK_AUTHENTICATION, Code.APPLIER_UNREACHABLE)


@pytest.mark.parametrize("endpoint", ["", "tcp://host", "ipc:///tmp/x", "tcp://h:0", "tcp://::1:5"])
def test_an_endpoint_that_is_none_is_a_settings_error(endpoint: str) -> None:
    with pytest.raises(LogshipError) as caught:
        Dealer(
            endpoint,
            server_public_key=SERVER.public,
            keys=CLIENT,
            on_message=lambda parts: None,
            on_closed=lambda error: None,
        )
    assert caught.value.code is Code.SETTINGS


async def test_a_port_in_use_is_a_settings_error(listener: Listener) -> None:
    other = Listener()
    try:
        with pytest.raises(LogshipError) as caught:
            other.router.bind(listener.endpoint)
        assert caught.value.code is Code.SETTINGS
    finally:
        other.router.close()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6 loopback")
async def test_ipv6_works(listener: Listener) -> None:
    endpoint = listener.router.bind("tcp://[::1]:0")
    caller = Caller(endpoint)
    await caller.dealer.connect(5)
    caller.dealer.send([b"six"])
    peer, parts = await asyncio.wait_for(listener.messages.get(), 5)
    assert (peer.address, parts) == ("::1", [b"six"])
    caller.dealer.close()


async def test_a_cut_connection_is_told_once_and_never_mended(listener: Listener) -> None:
    async with TcpProxy("127.0.0.1", listener.port) as proxy:
        caller = Caller(proxy.endpoint)
        await caller.dealer.connect(5)
        proxy.cut()
        error = await asyncio.wait_for(caller.closed.get(), 5)
        assert error.code is Code.LINK_LOST
        with pytest.raises(LogshipError) as caught:
            caller.dealer.send([b"late"])
        assert caught.value.code is Code.LINK_LOST
        # A second connection would come at once if libzmq reconnected by itself.
        again = Caller(proxy.endpoint)
        await again.dealer.connect(5)
        assert proxy.connections == 2
        assert caller.closed.empty()
        again.dealer.close()


async def test_a_peer_that_left_is_found_by_the_next_send(listener: Listener) -> None:
    caller = Caller(listener.endpoint)
    await caller.dealer.connect(5)
    caller.dealer.send([b"here"])
    peer, _ = await asyncio.wait_for(listener.messages.get(), 5)
    caller.dealer.close()
    async with asyncio.timeout(5):
        while listener.gone.empty():
            listener.router.send(peer, [b"anyone?"])
            await asyncio.sleep(0.01)
    assert await listener.gone.get() == peer
    listener.router.send(peer, [b"anyone?"])
    await asyncio.sleep(0)
    assert listener.gone.empty()


async def test_a_dropped_peer_is_heard_no_more(listener: Listener) -> None:
    caller, other = Caller(listener.endpoint), Caller(listener.endpoint)
    await caller.dealer.connect(5)
    await other.dealer.connect(5)
    caller.dealer.send([b"one"])
    peer, _ = await asyncio.wait_for(listener.messages.get(), 5)
    listener.router.drop(peer)
    caller.dealer.send([b"two"])
    other.dealer.send([b"three"])
    heard, parts = await asyncio.wait_for(listener.messages.get(), 5)
    assert heard != peer
    assert parts == [b"three"]
    caller.dealer.close()
    other.dealer.close()


async def test_a_goodbye_is_delivered_before_the_end(listener: Listener) -> None:
    caller = Caller(listener.endpoint)
    await caller.dealer.connect(5)
    caller.dealer.send([b"bye"])
    await caller.dealer.finish()
    _, parts = await asyncio.wait_for(listener.messages.get(), 5)
    assert parts == [b"bye"]


SEND_HUGE = """
import sys, zmq
endpoint, server, public, secret, size_bytes = sys.argv[1:]
with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
    dealer.linger = 0
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    dealer.setsockopt_string(zmq.CURVE_SERVERKEY, server)
    dealer.setsockopt_string(zmq.CURVE_PUBLICKEY, public)
    dealer.setsockopt_string(zmq.CURVE_SECRETKEY, secret)
    monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    dealer.connect(endpoint)
    dealer.send_multipart([b"head", b"x" * int(size_bytes)])
    print("cut off" if monitor.poll(20_000) else "still connected")
    dealer.disable_monitor()
    monitor.close(0)
"""


def peak_memory_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def test_a_huge_frame_ends_the_connection_without_being_held(listener: Listener) -> None:
    size_bytes = 128 * 1024 * 1024
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, proc(5)
    before_bytes = peak_memory_bytes()
    # Another process, as only what the receiver takes is to be measured.
    sender = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", SEND_HUGE, listener.endpoint, SERVER.public, *CLIENT, str(size_bytes)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(sender.communicate(), 30)
    assert output == b"cut off\n"
    assert listener.messages.empty()
    assert peak_memory_bytes() - before_bytes < MAX_PAYLOAD_BYTES


async def test_closing_leaves_no_descriptor_behind(listener: Listener) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def round_trip() -> None:
        caller = Caller(listener.endpoint)
        await caller.dealer.connect(5)
        caller.dealer.send([b"x"])
        await asyncio.wait_for(listener.messages.get(), 5)
        caller.dealer.close()
        await refused(Caller(listener.endpoint, keys=STRANGER))

    await round_trip()
    before = descriptors()
    for _ in range(10):
        await round_trip()
    # The listener's side of the last connection or two may still be closing.
    assert descriptors() <= before + 4


@pytest.fixture(autouse=True)
def _no_stray_sockets(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    yield
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]


def dealer(
    endpoint: str, keys: KeyPair, context: zmq.Context[zmq.Socket[bytes]]
) -> zmq.Socket[bytes]:
    """A plain socket, which does what ours never do."""
    made = context.socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 500)
    made.setsockopt(zmq.ROUTING_ID, b"chosen")
    made.setsockopt_string(zmq.CURVE_SERVERKEY, SERVER.public)
    made.setsockopt_string(zmq.CURVE_PUBLICKEY, keys.public)
    made.setsockopt_string(zmq.CURVE_SECRETKEY, keys.secret)
    made.connect(endpoint)
    return made


async def test_another_key_can_not_go_on_with_a_connection_that_is_gone(
    listener: Listener,
) -> None:
    listener.router.allow([CLIENT.public, STRANGER.public])
    with zmq.Context() as context:
        with dealer(listener.endpoint, CLIENT, context) as first:
            first.send(b"from the client")
            peer, _ = await asyncio.wait_for(listener.messages.get(), 5)
        async with asyncio.timeout(10):
            while listener.gone.empty():
                # The id is taken until the ROUTER has seen the first connection end.
                with dealer(listener.endpoint, STRANGER, context) as second:
                    second.send(b"from a stranger")
                    await asyncio.sleep(0.1)
        assert listener.gone.get_nowait() == peer
    assert listener.messages.empty()


async def test_a_message_of_many_parts_is_cut_and_shows_that_it_is_no_frame(
    listener: Listener,
) -> None:
    with zmq.Context() as context, dealer(listener.endpoint, CLIENT, context) as one:
        one.send_multipart([b"x"] * 500)
        one.send_multipart([b"head", b"payload"])
        _, parts = await asyncio.wait_for(listener.messages.get(), 5)
        assert len(parts) == 3
        _, parts = await asyncio.wait_for(listener.messages.get(), 5)
        assert [bytes(part) for part in parts] == [b"head", b"payload"]

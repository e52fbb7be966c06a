"""Joining by a token over real ZeroMQ: it works once, for who has it, and for nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from applier.enrolment.desk import EnrolmentDesk
from applier.receivers.link import LinkReceiver
from logship.errors import Code, LogshipError, RefusedError
from logship.frames import (
    Joined,
    Payload,
    Refuse,
    decode_from_applier,
    decode_joined,
    encode,
)
from logship.link.keys import KeyPair
from logship.link.token import JoinToken
from logship.link.transport import Dealer
from shipper.commands.join_request import redeem
from shipper.destinations.link import LinkDestination, ShipperIdentity
from tests.integration.destination_contract import facts
from tests.support.enrolments import MemoryInstances, join_of
from tests.support.fake_intake import FakeIntake, new_keys
from tests.support.link_frames import SEGMENT_BYTES, at, hello, profile
from tests.support.proxy import TcpProxy
from tests.support.waiting import until

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 60.0
"""Each token and each registration is synced to a disk that may be busy."""


class Recovery:
    """A link with one shipper's key, `orders`, and a desk behind it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keys, self.shipper_keys = new_keys(), new_keys()
        self.now = 1e9
        self.intake = FakeIntake(at(1, SEGMENT_BYTES), SEGMENT_BYTES)
        self.instances = MemoryInstances(orders=self.shipper_keys.public)
        self.desk = self.new_desk()
        self.receiver = LinkReceiver(
            {"orders": self.intake},
            {self.shipper_keys.public: frozenset({"orders"})},
            keys=self.keys,
            window_bytes=1 << 20,
            heartbeat_seconds=2,
            registrar=self.desk,
        )
        self.endpoint = self.receiver.start("tcp://127.0.0.1:0")
        self.proxy = TcpProxy("127.0.0.1", int(self.endpoint.rpartition(":")[2]))

    def new_desk(self) -> EnrolmentDesk:
        return EnrolmentDesk(
            self.directory,
            self.instances,
            applier_public_key=lambda: self.keys.public,
            clock=lambda: self.now,
        )

    async def token(self, name: str = "main", **changes: Any) -> JoinToken:
        """A new one, through the proxy."""
        token, _ = await self.desk.issue(name, self.proxy.endpoint, 1)
        return token._replace(**changes)


@pytest.fixture
async def recovery(tmp_path: Path) -> AsyncIterator[Recovery]:
    made = Recovery(tmp_path / "enrolment")
    async with made.proxy:
        yield made
        await made.receiver.stop()


async def joined(token: JoinToken, shipper: KeyPair) -> Joined:
    return await redeem(token, shipper.public, profile(), answer_timeout_seconds=PATIENCE_SECONDS)


async def refusal(token: JoinToken, shipper: KeyPair) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        await joined(token, shipper)
    assert caught.value.hint
    return caught.value


class Caller:
    """A connection with any key, which says what it likes."""

    def __init__(self, endpoint: str, server: str, keys: KeyPair) -> None:
        self.heard: asyncio.Queue[list[Payload] | LogshipError] = asyncio.Queue()
        self.dealer = Dealer(
            endpoint,
            server_public_key=server,
            keys=keys,
            on_message=self.heard.put_nowait,
            on_closed=self.heard.put_nowait,
        )

    async def answer_to(self, *messages: list[Payload]) -> list[Payload]:
        await self.dealer.connect(PATIENCE_SECONDS)
        for parts in messages:
            self.dealer.send(parts)
        answer = await asyncio.wait_for(self.heard.get(), PATIENCE_SECONDS)
        assert isinstance(answer, list)
        return answer

    async def refused_with(self, *messages: list[Payload]) -> Refuse:
        frame, _ = decode_from_applier(await self.answer_to(*messages))
        self.dealer.close()
        assert isinstance(frame, Refuse)
        return frame


async def test_a_token_is_good_for_one_shipper(recovery: Recovery) -> None:
    token, shipper = await recovery.token(), new_keys()
    token = JoinToken.parse(token.text())
    answer = await joined(token, shipper)
    assert (answer.instance, answer.standby_port) == ("main", 5433)
    assert recovery.instances.keys["main"] == shipper.public
    error = await refusal(token, new_keys())
    assert isinstance(error, RefusedError)
    assert error.code is Code.TOKEN_USED
    assert await joined(token, shipper) == answer
    assert recovery.instances.registered == ["main"]


async def test_who_comes_late_is_told_so(recovery: Recovery) -> None:
    token = await recovery.token()
    recovery.now += 3600
    assert (await refusal(token, new_keys())).code is Code.TOKEN_EXPIRED
    newer = await recovery.token()
    assert (await refusal(token, new_keys())).code is Code.TOKEN_UNKNOWN
    await joined(newer, new_keys())


async def test_a_guess_is_not_let_in(recovery: Recovery) -> None:
    await recovery.token()
    guess = await recovery.token("unasked", keys=new_keys())
    error = await refusal(guess, new_keys())
    assert error.code is Code.TOKEN_UNKNOWN
    assert recovery.instances.registered == []


async def test_the_public_half_of_a_token_is_of_no_use(recovery: Recovery) -> None:
    token = await recovery.token()
    forged = token._replace(keys=KeyPair(token.keys.public, new_keys().secret))
    with pytest.raises(LogshipError):
        await joined(forged, new_keys())
    assert recovery.instances.registered == []
    await joined(token, new_keys())


async def test_another_applier_at_the_address_is_found_out(recovery: Recovery) -> None:
    token = await recovery.token(applier_public_key=new_keys().public)
    error = await refusal(token, new_keys())
    assert error.code is Code.LINK_AUTHENTICATION
    assert "not the applier that gave out this token" in error.what


async def test_a_cut_before_the_answer_costs_nothing(recovery: Recovery) -> None:
    token, shipper = await recovery.token(), new_keys()
    recovery.instances.may_go_on.clear()
    trying = asyncio.create_task(refusal(token, shipper))
    await until(lambda: recovery.instances.registered, "the join has arrived")
    recovery.proxy.cut()
    error = await trying
    assert (error.code, error.retryable) == (Code.LINK_LOST, True)
    recovery.instances.may_go_on.set()
    assert (await joined(token, shipper)).instance == "main"
    assert recovery.instances.registered == ["main"]


async def test_an_applier_that_says_nothing_is_not_waited_for_for_ever(
    recovery: Recovery,
) -> None:
    token = await recovery.token()
    recovery.instances.may_go_on.clear()
    with pytest.raises(LogshipError) as caught:
        await redeem(token, new_keys().public, profile(), answer_timeout_seconds=0.2)
    assert caught.value.code is Code.LINK_LOST
    recovery.instances.may_go_on.set()


async def test_of_two_at_once_one_joins(recovery: Recovery) -> None:
    token, shippers = await recovery.token(), [new_keys() for _ in range(4)]
    outcomes = await asyncio.gather(
        *(joined(token, each) for each in shippers), return_exceptions=True
    )
    (winner,) = [n for n, each in enumerate(outcomes) if isinstance(each, Joined)]
    refused = [each for each in outcomes if isinstance(each, LogshipError)]
    assert [each.code for each in refused] == [Code.TOKEN_USED] * 3
    assert recovery.instances.keys["main"] == shippers[winner].public


async def test_a_token_opens_no_session(recovery: Recovery) -> None:
    """Not of its own instance, and not of another."""
    for name in ("main", "orders"):
        token = await recovery.token()
        caller = Caller(recovery.endpoint, recovery.keys.public, token.keys)
        refused = await caller.refused_with(encode(hello(instance=name)))
        assert refused.code == Code.BAD_FRAME
    await joined(token, new_keys())
    assert recovery.intake.log == []


async def test_the_token_s_key_ships_nothing_after_the_join_either(recovery: Recovery) -> None:
    token = await recovery.token()
    await joined(token, new_keys())
    caller = Caller(recovery.endpoint, recovery.keys.public, token.keys)
    assert (await caller.refused_with(encode(hello(instance="main")))).code == Code.BAD_FRAME


async def test_the_first_frame_is_the_only_one(recovery: Recovery) -> None:
    first, second = await recovery.token("first"), await recovery.token("second")
    caller = Caller(recovery.endpoint, recovery.keys.public, first.keys)
    ours, theirs = new_keys(), new_keys()
    answer = await caller.answer_to(encode(join_of(ours)), encode(join_of(theirs)))
    assert isinstance(decode_joined(answer), Joined)
    # Another's join comes after it on the same socket, so the second frame was seen by then.
    await joined(second, new_keys())
    caller.dealer.close()
    assert recovery.instances.keys["first"] == ours.public
    assert caller.heard.empty()


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([b"nonsense"], Code.CHECKSUM_MISMATCH),
        ([b""], Code.BAD_FRAME),
        ([b"a", b"b", b"c"], Code.BAD_FRAME),
        (encode(join_of(KeyPair("no key", ""))), Code.BAD_FRAME),
        (encode(join_of(new_keys(), version_min=8, version_max=9)), Code.VERSION_MISMATCH),
    ],
)
async def test_what_is_no_join_is_refused_and_the_token_stays_good(
    recovery: Recovery, parts: list[Payload], code: Code
) -> None:
    token = await recovery.token()
    caller = Caller(recovery.endpoint, recovery.keys.public, token.keys)
    assert (await caller.refused_with(parts)).code == code
    await joined(token, new_keys())


async def test_a_shipper_s_own_key_does_not_join(recovery: Recovery) -> None:
    caller = Caller(recovery.endpoint, recovery.keys.public, recovery.shipper_keys)
    assert (await caller.refused_with(encode(join_of(new_keys())))).code == Code.BAD_FRAME
    assert recovery.instances.registered == []


async def test_shippers_are_served_while_others_join(recovery: Recovery) -> None:
    token, shipper = await recovery.token(), new_keys()
    recovery.instances.may_go_on.clear()
    joining = asyncio.create_task(joined(token, shipper))
    await until(lambda: recovery.instances.registered, "the join has arrived")
    destination = LinkDestination(
        recovery.proxy.endpoint,
        server_public_key=recovery.keys.public,
        keys=recovery.shipper_keys,
        identity=ShipperIdentity("orders", "shipper-a", "boot-1", "async"),
    )
    await destination.connect(facts())
    await destination.close("done")
    recovery.instances.may_go_on.set()
    assert (await joining).instance == "main"


async def test_a_stopping_applier_finishes_what_it_registers(recovery: Recovery) -> None:
    token, shipper = await recovery.token(), new_keys()
    recovery.instances.may_go_on.clear()
    joining = asyncio.create_task(redeem(token, shipper.public, profile()))
    await until(lambda: recovery.instances.registered, "the join has arrived")
    stopping = asyncio.create_task(recovery.receiver.stop())
    recovery.instances.may_go_on.set()
    await asyncio.wait_for(stopping, PATIENCE_SECONDS)
    await asyncio.wait({joining}, timeout=PATIENCE_SECONDS)
    assert joining.done()
    joining.exception()  # the answer may have been cut off by the end
    again = recovery.new_desk()
    await again.load()
    answer = await again.join(token.keys.public, join_of(shipper), "")
    assert answer.instance == "main"

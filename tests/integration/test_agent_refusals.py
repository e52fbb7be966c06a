"""A refusal ends when the applier's settings were mended, with no restart of the shipper."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from applier.receivers.link import LinkReceiver
from logship.errors import Code
from logship.link.keys import KeyPair
from shipper.agent import agent as agent_module
from shipper.agent.agent import Agent
from shipper.destinations.link import LinkDestination, ShipperIdentity
from tests.support.fake_intake import FakeIntake, new_keys
from tests.support.fakes import FakeSource
from tests.support.link_frames import SEGMENT_BYTES, at, wal_bytes
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.integration

S = SEGMENT_BYTES
INSTANCE = "orders"


class Rig:
    """A shipper's agent that runs, and the applier's receiver, which is started anew."""

    def __init__(self) -> None:
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.server_keys, self.keys = new_keys(), new_keys()
        self.intake = FakeIntake(at(1, S), S)
        self.source = FakeSource(start_lsn=S)
        self.stop = asyncio.Event()
        self._receiver: LinkReceiver | None = None
        destination = LinkDestination(
            self.endpoint,
            server_public_key=self.server_keys.public,
            keys=self.keys,
            identity=ShipperIdentity(INSTANCE, "shipper-a", "boot-1", "async"),
        )
        agent = Agent(self.source, destination, _no_seed)
        self.task = asyncio.create_task(agent.run(self.stop))

    async def applier(
        self,
        *,
        allowed: dict[str, str] | None = None,
        keys: KeyPair | None = None,
    ) -> None:
        """(Re)start the applier.  `allowed`: instance by public key."""
        if self._receiver is not None:
            await self._receiver.stop()
        by_key = {self.keys.public: INSTANCE} if allowed is None else allowed
        self._receiver = LinkReceiver(
            dict.fromkeys(by_key.values(), self.intake),
            {key: frozenset({name}) for key, name in by_key.items()},
            keys=keys or self.server_keys,
            window_bytes=400_000,
            # A busy machine must not make silence of a pause, and a loss of what was refused.
            heartbeat_seconds=5.0,
        )
        self._receiver.start(self.endpoint)

    async def close(self) -> None:
        self.stop.set()
        await self.task
        if self._receiver is not None:
            await self._receiver.stop()


async def _no_seed(*_: object) -> None:
    raise AssertionError("no seed is wanted")


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(agent_module, "REFUSED_RETRY_SECONDS", 0.05)
    made = Rig()
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        (Code.LINK_AUTHENTICATION, lambda rig: {"allowed": {new_keys().public: INSTANCE}}),
        (Code.LINK_AUTHENTICATION, lambda rig: {"keys": new_keys()}),
        (
            Code.KEY_NOT_ALLOWED,
            lambda rig: {"allowed": {rig.keys.public: "billing", new_keys().public: INSTANCE}},
        ),
        (Code.UNKNOWN_INSTANCE, lambda rig: {"allowed": {rig.keys.public: "billing"}}),
    ],
    ids=["unknown-key", "other-applier-key", "key-of-another-instance", "unknown-instance"],
)
async def test_a_refusal_is_said_once_and_heals_by_itself(
    rig: Rig, code: Code, wrong: Callable[[Rig], dict[str, object]]
) -> None:
    with capture_logs() as logs:
        await rig.applier(**wrong(rig))  # type: ignore[arg-type]
        await until(lambda: rig.source.opened > 4, "it is tried again and again", 60)
        said = [entry for entry in logs if entry.get("code") == code and "address" not in entry]
        assert len(said) == 1
        assert said[0]["hint"]
        await rig.applier()
        rig.source.flush(S + 5000)
        await until(lambda: rig.intake.wal_of(1) == wal_bytes(1, S, 5000), "it ships", 60)

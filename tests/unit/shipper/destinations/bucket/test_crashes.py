"""A bucket destination that dies at random: it never says of WAL that is not there that it is,
and whoever starts next leaves no hole."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from logship.errors import LogshipError
from logship.lsn import Lsn
from logship.objects import Bytes, ObjectStore
from shipper.destinations import Acked, Lost, Rewind
from shipper.destinations.bucket.destination import BucketDestination
from tests.integration.destination_contract import facts
from tests.support.bucket_far_end import BucketFarEnd
from tests.support.link_frames import SEGMENT_BYTES, at, sealed_wal, wal_bytes
from tests.support.memory_store import MemoryStore
from tests.support.rigged_store import unreachable
from tests.support.waiting import until

S = SEGMENT_BYTES
END = S + 9000

STORED, FAILED, UNHEARD, HELD, DEAD, DEAD_UNHEARD = (
    "stored",
    "failed",
    "unheard",
    "held",
    "dead",
    "dead, unheard",
)
"""What becomes of a PUT: the last two end the process, the last four may leave holes."""


class Mortal(MemoryStore):
    """The store as one process sees it: what it puts fares by `fates`; once dead, nothing works."""

    def __init__(self, real: MemoryStore, fates: list[str]) -> None:
        self._real = real
        self._fates = fates
        self._state = threading.Condition()
        self._dead = False
        self._held = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("get", "describe", "delete", "listing", "folders"):
            if self._dead:
                raise unreachable()
            return getattr(self._real, name)
        return super().__getattribute__(name)

    @property
    def is_dead(self) -> bool:
        return self._dead

    def die(self) -> None:
        with self._state:
            self._dead = True
            self._state.notify_all()

    def put(
        self,
        key: str,
        data: Bytes,
        metadata: Mapping[str, str] | None = None,
        **conditions: Any,
    ) -> str:
        with self._state:
            fate = self._fates.pop(0) if "/wal/" in key and self._fates else STORED
            if fate == HELD:
                # Until it dies: then it was never there.  Others overtake it meanwhile.
                self._held += 1
                self._state.wait_for(lambda: self._dead, 0.05)
            if self._dead or fate in (FAILED, DEAD):
                self._dead = self._dead or fate == DEAD
                self._state.notify_all()
                raise unreachable()
            etag = self._real.put(key, data, metadata, **conditions)
            if fate in (UNHEARD, DEAD_UNHEARD):
                self._dead = self._dead or fate == DEAD_UNHEARD
                self._state.notify_all()
                raise unreachable()
            return etag


class World:
    def __init__(self, directory: Path) -> None:
        self.real = MemoryStore()
        self.rig = BucketFarEnd(directory, self.real)
        self.acked = at(1, S)

    def destination(self, store: ObjectStore, patience_seconds: float) -> BucketDestination:
        return self.rig.make_destination(
            store=store,
            max_object_bytes=700,
            max_delay_seconds=0.001,
            patience_seconds=patience_seconds,
            uploads_at_once=4,
        )

    async def live(self, fates: list[str], patience_seconds: float, spans: list[int]) -> None:
        """One process, until it dies or everything is acknowledged."""
        store = Mortal(self.real, list(fates))
        destination = self.destination(store, patience_seconds)
        while not store.is_dead and self.acked.lsn < END:
            try:
                await self._one_connection(destination, store, list(spans))
            except LogshipError as error:
                assert error.retryable, error
        store.die()
        await destination.close("it died")
        await until(lambda: not destination._busy, "its threads ended")

    async def _one_connection(
        self, destination: BucketDestination, store: Mortal, spans: list[int]
    ) -> None:
        accepted = await destination.connect(facts())
        assert accepted.position is not None
        assert accepted.position >= self.acked, "what was acknowledged is gone"
        assert accepted.durable is not None
        self.check(accepted.durable.lsn)
        self.acked = accepted.durable
        destination.resume(accepted.position)
        sending = asyncio.create_task(self._send(destination, accepted.position.lsn, spans))
        try:
            while not store.is_dead and self.acked.lsn < END:
                try:
                    async with asyncio.timeout(0.02):
                        event = await destination.next_event()
                except TimeoutError:
                    continue  # perhaps it is dead
                match event:
                    case Acked(durable=durable):
                        self.check(durable.lsn)
                        self.acked = max(self.acked, durable)
                    case Lost(error):
                        assert error.retryable, error
                        return
                    case Rewind():
                        raise AssertionError(event)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, destination: BucketDestination, lsn: int, spans: list[int]) -> None:
        while lsn < END:
            size = min(spans.pop(0) if spans else 500, END - lsn)
            await destination.room(size)
            destination.send_span(1, lsn, sealed_wal(1, lsn, size), lsn + size)
            lsn += size
            await asyncio.sleep(0)

    def check(self, end: int) -> None:
        """All WAL up to `end` can be followed, and is right."""
        assert self.rig.wal_of(1)[: end - S] == wal_bytes(1, S, end - S)


fates = st.lists(
    st.sampled_from([STORED, STORED, STORED, FAILED, UNHEARD, HELD, DEAD, DEAD_UNHEARD]),
    max_size=12,
)
lives = st.tuples(
    fates, st.sampled_from([0.0, 10.0]), st.lists(st.integers(1, 1500), max_size=8), st.booleans()
)


@settings(max_examples=40)
@given(st.lists(lives, max_size=4))
def test_nothing_that_was_acknowledged_is_lost_and_no_hole_is_left(
    plan: list[tuple[list[str], float, list[int], bool]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))

        async def run() -> None:
            for each, patience_seconds, spans, forgets in plan:
                await world.live(each, patience_seconds, spans)
                if forgets:
                    (world.rig.state / "bucket.json").unlink(missing_ok=True)
            await world.live([], 10.0, [])

        asyncio.run(asyncio.wait_for(run(), 60))
        assert world.acked == at(1, END)
        world.check(END)
        places = [place for place, _, _ in world.rig.objects()]
        stored = list(world.real.listing(f"{world.rig.keys.all_wal}"))
        assert len(stored) == len(places) + 1, "nothing lies beside the log"
        assert Lsn(END) == max(head.end_lsn for _, head, _ in world.rig.objects())

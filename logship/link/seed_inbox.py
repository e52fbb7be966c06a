"""The applier's account of a seed: which chunk comes next, and how much waits to be used."""

from __future__ import annotations

from collections import deque

from logship.errors import Code, LogshipError
from logship.frames import (
    MAX_PAYLOAD_BYTES,
    SEED_WINDOW_BYTES,
    Payload,
    SeedAck,
    SeedChunk,
    SeedEnd,
    Welcome,
)
from logship.link.events import SeedChunkReceived, SeedEnded
from logship.link.refusals import bad_frame
from logship.link.windows import SEED_ITEM_COST_BYTES, seed_item_cost


class SeedInbox:
    """Chunks in order and within their window; a SeedAck that it returns is to be sent."""

    def __init__(self) -> None:
        self.seed_id = ""
        """The seed in progress, or ""."""
        self.forgotten_id = ""
        """The last one that ended or was given up: late chunks of it are no offence."""
        self.chain_begins_for = ""
        """The seed whose begin was handed up and not answered: acks would be of the chain
        before it."""
        self.epoch = 0
        """Rises whenever what was handed up before is void."""
        self.expected = 0
        self.acked = 0
        self._costs: deque[int] = deque()  # of the chunks from `acked` on
        self._size_bytes = 0
        self._ask_again_seconds = 0.0
        self._asked_at: float | None = None

    def open(self, welcome: Welcome) -> None:
        """Go on with the hello's seed, if the welcome names it."""
        self._ask_again_seconds = welcome.heartbeat_seconds
        self._resume(welcome.seed_id, welcome.seed_sequence)

    def begin(self, seed_id: str) -> None:
        self._resume(seed_id, 0)
        self.chain_begins_for = seed_id
        self.epoch += 1
        self._asked_at = None

    def _resume(self, seed_id: str, sequence: int) -> None:
        self.seed_id = seed_id
        self.expected = self.acked = sequence
        self._costs.clear()
        self._size_bytes = 0

    def forget(self, seed_id: str) -> None:
        if seed_id == self.seed_id:
            self._resume("", 0)
            self.epoch += 1
        self.forgotten_id = seed_id

    def take(
        self, item: SeedChunk | SeedEnd, payload: Payload, now: float
    ) -> SeedChunkReceived | SeedEnded | SeedAck | None:
        """A chunk or the end came.  None: it is here already, or of a seed that is given up.

        Raises LogshipError(BAD_FRAME): its seed never began, or it does not fit the window.
        """
        if not item.seed_id or item.seed_id != self.seed_id:
            if item.seed_id and item.seed_id == self.forgotten_id:
                return None  # sent before the shipper heard that the seed was given up
            raise LogshipError(
                Code.BAD_FRAME,
                f"a chunk of seed {item.seed_id}, which never began here",
                "the seed goes on, or starts anew, on a new connection",
                retryable=True,
            )
        if item.sequence < self.expected:
            return None  # the manifest vouches for the bytes
        if item.sequence > self.expected:
            return self._ask_again(now)
        self._asked_at = None
        self._add(payload)
        if isinstance(item, SeedEnd):
            return SeedEnded(item, self.epoch)
        return SeedChunkReceived(item, payload, self.epoch)

    def _add(self, payload: Payload) -> None:
        self._costs.append(seed_item_cost(payload))
        self._size_bytes += self._costs[-1]
        self.expected += 1
        if self._size_bytes > SEED_WINDOW_BYTES + MAX_PAYLOAD_BYTES + SEED_ITEM_COST_BYTES:
            raise bad_frame("more of a seed sent ahead than its window allows")

    def settle(self, next_sequence: int) -> None:
        """Chunks below `next_sequence` are done with.  Raises ValueError if they never came."""
        if not self.acked <= next_sequence <= self.expected:
            raise ValueError(f"{next_sequence} acked, {self.expected} is expected next")
        while self.acked < next_sequence:
            self._size_bytes -= self._costs.popleft()
            self.acked += 1

    def sent(self, seed_id: str, sequence: int, now: float) -> SeedAck | None:
        """The shipper says how far it has sent."""
        if not self.seed_id or seed_id != self.seed_id or sequence <= self.expected:
            return None
        return self._ask_again(now)

    def set_back(self, sequence: int, now: float) -> SeedAck | None:
        """Chunk `sequence` and all after it must come again.  None: that is so already."""
        if not self.acked <= sequence < self.expected:
            return None
        while self.expected > sequence:
            self._size_bytes -= self._costs.pop()
            self.expected -= 1
        self.epoch += 1
        self._asked_at = None
        return self._ask_again(now)

    def _ask_again(self, now: float) -> SeedAck | None:
        """Said once, and again each heartbeat's time while it goes unheeded."""
        if self._asked_at is not None and now < self._asked_at + self._ask_again_seconds:
            return None
        self._asked_at = now
        return SeedAck(seed_id=self.seed_id, next_sequence=self.expected, resend=True)

"""The seed that is on its way over the link, kept until the applier has it.

No I/O: `LinkDestination` sends what is returned here, one session after the other.
"""

from __future__ import annotations

from logship.errors import Code, LogshipError
from logship.frames import Payload, SeedBegin, SeedChunk, SeedEnd
from logship.link.windows import SeedItem, SeedOutbox


class LinkSeeds:
    """At most one seed at a time; it survives cuts of the connection, chunk by chunk."""

    def __init__(self) -> None:
        self._outbox: SeedOutbox | None = None
        self._failure: LogshipError | None = None

    @property
    def seed_id(self) -> str:
        """The seed that is held open, or "": what a hello says."""
        return self._outbox.begin.seed_id if self._outbox is not None else ""

    @property
    def has_room(self) -> bool:
        """Whether the next chunk may be added.  Raises LogshipError(SEED_FAILED) when the seed
        was given up: its maker has to stop."""
        return self._current.room_bytes > 0

    def begin(self, frame: SeedBegin) -> None:
        """A new seed; one that was on its way is forgotten."""
        self._outbox = SeedOutbox(frame)
        self._failure = None

    def add(self, frame: SeedChunk | SeedEnd, payload: Payload) -> Payload | None:
        """Keep the next part, once `has_room`.  Returns its payload as it must be sent."""
        kept = payload if isinstance(frame, SeedChunk) and len(payload) else None
        self._current.add(frame, kept)
        return kept

    def forget(self) -> None:
        """It is in place at the applier, or was given up by its own maker."""
        self._outbox = None

    def fail(self, why: str) -> str:
        """Give the seed up: `has_room` and `add` raise from now on.  Returns its id."""
        seed_id = self.seed_id
        if seed_id:
            self._outbox = None
            self._failure = LogshipError(Code.SEED_FAILED, why, retryable=True)
        return seed_id

    def resume(self, seed_id: str, sequence: int) -> list[SeedItem] | None:
        """What continues the seed on a new connection, by the welcome's `seed_id` and
        `seed_sequence`.  None: it can't be continued, `fail` it."""
        return self._outbox.resume(seed_id, sequence) if self._outbox is not None else []

    def acked(self, seed_id: str, next_sequence: int, *, resend: bool) -> list[SeedItem] | None:
        """The applier is done with what lies below `next_sequence`.  Returns what it wants
        again; None: it wants what is gone already, `fail` the seed."""
        outbox = self._outbox
        if outbox is None or outbox.begin.seed_id != seed_id:
            return []
        try:
            pending = outbox.pending_from(next_sequence) if resend else []
            outbox.acked(next_sequence)
        except ValueError:
            return None
        return list(pending)

    @property
    def _current(self) -> SeedOutbox:
        if self._failure is not None:
            raise self._failure
        if self._outbox is None:
            raise LogshipError(Code.SEED_FAILED, "the seed was given up", retryable=True)
        return self._outbox

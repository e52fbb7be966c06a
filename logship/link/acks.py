"""What the applier has told its shipper, and what it should tell next."""

from __future__ import annotations

from typing import Final

from logship.frames import Ack
from logship.lsn import Position

ACK_AT_ONCE_PART: Final = 4
"""Received bytes are acknowledged at once when they free this fraction of the window."""

ACK_DELAY_SECONDS: Final = 0.05
"""How long news that frees nobody (received or applied moved, durable did not) may wait for
an ack that must be sent anyway."""

_NOTHING: Final = Ack(timeline=0, received_lsn=0, durable_lsn=0)


class Acks:
    """Positions of one chain on one connection; they only rise, until `reset`."""

    def __init__(self) -> None:
        self.told = _NOTHING
        """The last ack sent; timeline 0 before the first."""
        self.at: float | None = None
        """When to `tell`, at the latest; None: nothing waits."""
        self._received: Position | None = None
        self._durable: Position | None = None
        self._applied_lsn = 0

    def reset(self, resume: Position | None) -> None:
        """A new chain, or the resume position of a welcome, which needs no ack."""
        self._received = self._durable = resume
        self.told = _NOTHING
        self.at = None
        if resume is not None:
            self.told = Ack(
                timeline=resume.timeline, received_lsn=resume.lsn, durable_lsn=resume.lsn
            )

    def set_back(self, position: Position) -> None:
        """The stream starts again at `position`: what was received beyond it does not count.
        Durable stays durable."""
        if self._received is not None:
            self._received = min(self._received, position)

    def news(
        self,
        received: Position | None,
        durable: Position | None,
        applied_lsn: int,
        now: float,
        window_bytes: int,
    ) -> list[Ack]:
        """Positions may have moved.  Returns what is to be sent now; the rest waits until `at`."""
        self._update(received, durable, applied_lsn)
        acks = self._due()
        if not acks:
            self.at = None
        elif self.is_late(now) or self._is_urgent(acks[-1], window_bytes):
            return self.tell()
        else:
            self.tell_soon(now)
        return []

    def tell_soon(self, now: float) -> bool:
        """Something moved that nobody waits for.  Returns whether that moved `at`."""
        if self.at is not None:
            return False
        self.at = now + ACK_DELAY_SECONDS
        return True

    def is_late(self, now: float) -> bool:
        return self.at is not None and now >= self.at

    def tell(self) -> list[Ack]:
        """All that waits; it counts as sent."""
        acks = self._due()
        self.at = None
        if acks:
            self.told = acks[-1]
        return acks

    def _update(
        self, received: Position | None, durable: Position | None, applied_lsn: int
    ) -> None:
        if durable is not None:
            self._durable = max(self._durable or durable, durable)
        known = [at for at in (self._received, received, self._durable) if at is not None]
        self._received = max(known) if known else None
        self._applied_lsn = applied_lsn

    def _due(self) -> list[Ack]:
        """What the shipper must hear to know the positions: two acks where durable is still
        on the timeline before, one otherwise, none if it has heard."""
        if self._received is None:
            return []
        acks: list[Ack] = []
        durable = self._durable
        if durable is not None and durable.timeline != self._received.timeline:
            if (self.told.timeline, self.told.durable_lsn) < durable:
                acks.append(self._ack(durable, durable.lsn))
            durable = None
        last = self._ack(self._received, 0 if durable is None else durable.lsn)
        if last != self.told:
            acks.append(last)
        return acks

    def _ack(self, received: Position, durable_lsn: int) -> Ack:
        return Ack(
            timeline=received.timeline,
            received_lsn=received.lsn,
            durable_lsn=durable_lsn,
            applied_lsn=self._applied_lsn,
        )

    def _is_urgent(self, ack: Ack, window_bytes: int) -> bool:
        """Whether somebody may be waiting for it: a commit for `durable`, the sender for room."""
        if (ack.timeline, ack.durable_lsn) > (self.told.timeline, self.told.durable_lsn):
            return True
        return ack.received_lsn - self.told.received_lsn >= window_bytes // ACK_AT_ONCE_PART

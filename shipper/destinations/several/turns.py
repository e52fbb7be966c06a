"""Members that are far apart take turns at the one stream of WAL.  No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from logship.lsn import Lsn, Position
from shipper.destinations.several.members import Member, Role

TURN_SECONDS = 2.0


class Turns:
    """Of two that both need the stream, at places far apart, one starves while the other is
    served.  An optional one waits for those that are not."""

    def __init__(self) -> None:
        self._began_at: float | None = None
        """Since when somebody starves."""

    def are_due(
        self, members: Sequence[Member], stream: Position | None, flush_lsn: Lsn, now: float
    ) -> bool:
        """Whether the stream must go to others; those who had it are set aside for a turn."""
        takers = [each for each in members if each.takes]
        starving = [each for each in takers if _starves(each, stream, flush_lsn)]
        served = [each for each in takers if each not in starving]
        only_optional = all(each.role is Role.OPTIONAL for each in starving)
        if only_optional and any(each.role is not Role.OPTIONAL for each in served):
            starving = []
        if not starving or not served:
            self._began_at = None
        elif self._began_at is None:
            self._began_at = now
        elif now - self._began_at > TURN_SECONDS:
            self._began_at = None
            for member in served:
                member.aside_until = now + TURN_SECONDS
            return True
        return False


def _starves(member: Member, stream: Position | None, flush_lsn: Lsn) -> bool:
    """There is WAL for it, and the stream is busy further back."""
    if stream is None or member.next is None or member.next.lsn >= flush_lsn:
        return False
    return member.next > stream

"""The shipper's sign of life in a bucket, as its instance takes it: as news of the primary, and as
an alarm where it does not come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from applier.receivers import ShipperSign
from logship.bucket.sign_of_life import SignOfLife
from logship.errors import Code

if TYPE_CHECKING:
    from applier.operations.instance import Instance


class SignOfShipper:
    """While the link is connected it has the word, and after a fence nobody is missed."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._seen: ShipperSign | None = None
        self._seen_at = 0.0
        self._taken: SignOfLife | None = None
        """What was news the last time: of a clock that is ahead, the same would be again."""

    @property
    def sent_at(self) -> float | None:
        """When the newest one was, by the shipper's clock; None: none is listened to."""
        return self._seen.sign.sent_at if self._seen is not None else None

    @property
    def primary_reachable(self) -> bool | None:
        """Whether the shipper reaches its primary; None: that is not known now."""
        seen = self._seen
        if seen is None or not seen.is_fresh or not self._is_ours(seen):
            return None
        age = time.monotonic() - self._seen_at
        return seen.sign.reachable if age < seen.silent_after_seconds else None

    def seen(self, seen: ShipperSign | None) -> None:
        """It was looked at.  None: there is none, or nobody looks."""
        instance = self._instance
        if instance.is_connected or instance.record.fence is not None:
            seen = None
        self._seen, self._seen_at = seen, time.monotonic()
        if seen is not None and self._is_ours(seen):
            self._take(seen.sign)
        if seen is not None and seen.silent is not None:
            instance.alarms.raise_error(seen.silent)
        else:
            instance.alarms.clear(Code.SHIPPER_SILENT)

    def _take(self, sign: SignOfLife) -> None:
        sender = self._instance.sender
        if sign != self._taken and sign.heard_at:
            sender.heard_then(sign.timeline, sign.flush_lsn, sign.heard_at)
        self._taken = sign
        sender.save_while_behind()

    def _is_ours(self, seen: ShipperSign) -> bool:
        """Whether it speaks of the primary of the cluster that the instance is."""
        return seen.sign.cluster == str(self._instance.record.incarnation)

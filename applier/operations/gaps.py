"""WAL that is missing: named, shown, and over when it came from wherever it still was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from logship.errors import Code, LogshipError
from logship.frames import GapFound
from logship.lsn import Lsn

if TYPE_CHECKING:
    from applier.operations.instance import Instance

log = structlog.get_logger(__name__)


class Gaps:
    """One instance's: at most one gap at a time, as a store has one end."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.current: GapFound | None = None
        """What is missing, as it was reported."""
        self.hole: GapFound | None = None
        """What the link's shipper can't send: it waits to be told where to go on."""

    @property
    def is_filling(self) -> bool:
        """What is missing is looked for in the bucket."""
        gap, bucket = self.current, self._instance.bucket
        return gap is not None and bucket.is_open and bucket.read_from() is not None

    def found_on_link(self, gap: GapFound) -> None:
        """The connected shipper can't go on by itself."""
        self.found(gap)
        self.hole = gap
        self._instance.bucket.wake()

    def found(self, gap: GapFound) -> None:
        """What comes next is not to be had where it was looked for."""
        instance = self._instance
        self.current = gap
        missing = f"{gap.timeline}:{Lsn(gap.from_lsn)}"
        if gap.code != Code.WAL_IN_BUCKET:
            error = LogshipError(
                Code.WAL_GAP,
                f"the primary can't go on from {missing}, where the store is: {gap.what}",
                f"the standby stays at what it has and can be promoted; to protect the "
                f"instance again: applier seed {instance.name}",
            )
            instance.alarms.raise_error(error)
        elif not instance.bucket.is_open:
            error = LogshipError(
                Code.WAL_IN_BUCKET,
                f"the shipper put the WAL from {missing} on into its bucket, and "
                f"{instance.name} is attached to none here",
                "add the table [bucket] to the applier's settings, or set "
                f"instances.{instance.name}.bucket",
            )
            instance.alarms.raise_error(error)

    def forget_hole(self) -> None:
        """The connection ended, or is new: the shipper says anew what it lacks."""
        self.hole = None

    def wal_came(self) -> None:
        """WAL came that joins what is stored."""
        if self.current is not None and (self.hole is None or not self._instance.bucket.is_open):
            self.over()

    def over(self) -> None:
        self.current = self.hole = None
        for code in (Code.WAL_GAP, Code.WAL_IN_BUCKET):
            self._instance.alarms.clear(code)

    def bucket_is_dry(self) -> None:
        """All that the bucket has is here: if that fills the hole, the link goes on behind it."""
        hole, positions = self.hole, self._instance.positions()
        if hole is None or positions is None:
            return
        received = positions.received
        if received < (hole.timeline, max(hole.available_lsn, hole.from_lsn + 1)):
            return
        self.over()
        log.info("a hole was filled", instance=self._instance.name, up_to=str(received))
        why = "the WAL that was missing came from the bucket"
        listener = self._instance.link_listener
        if listener is None:
            return
        if hole.code == Code.WAL_IN_BUCKET:
            listener.resume(received, why)
        else:
            # It supposes that nothing helps: it comes again, and is told where to go on.
            listener.failed(LogshipError(Code.WAL_GAP, why, retryable=True))

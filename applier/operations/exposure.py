"""What would be lost: the primary's last known position against what is durable here.  Pure."""

from __future__ import annotations

from collections.abc import Mapping

from applier.operations.record import Heard
from logship.lsn import Position
from logship.wal import History


def exposure_bytes(
    heard: Heard | None, durable: Position | None, histories: Mapping[int, History]
) -> int | None:
    """WAL that the primary was heard to have flushed and that is not durable here.

    None: not known, because the primary was never heard, nothing is stored, or the primary
    is on a timeline whose fork from ours is not known here.
    """
    if heard is None or durable is None:
        return None
    if heard.timeline == durable.timeline:
        return max(0, heard.lsn - durable.lsn)
    if heard.timeline < durable.timeline:
        return 0  # heard before the switch, all of which is here: WAL follows its history
    history = histories.get(heard.timeline)
    fork = history.end_of(durable.timeline) if history is not None else None
    if fork is None:
        return None
    # What we hold of the old timeline past the fork is not part of the new one.
    return max(0, heard.lsn - min(durable.lsn, fork))

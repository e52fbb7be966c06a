"""What a shipper is told of the outbox that it reads WAL from, or of the primary's own archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from logship.settings_schema import Section


class ArchiveSettings(Section, frozen=True, kw_only=True):
    """The outbox that the primary's archiver fills, for primary.source = "archive"; or its own
    archive, to fill gaps from, for "stream"."""

    outbox: Annotated[
        Path | None,
        Meta(
            description=(
                "The directory. `shipper outbox-command` prints how the primary fills it. "
                "One outbox for each instance."
            ),
            examples=["/var/lib/logship/outbox/main"],
        ),
    ] = None
    keep: Annotated[
        bool,
        Meta(
            description=(
                "Leave files in the outbox after they are durable on the recovery server; "
                "something else has to remove them then. false: they are removed."
            )
        ),
    ] = False
    rescan_seconds: Annotated[
        float,
        Meta(
            description=(
                "How often to look for the files that come next, in case a notice of them was "
                "missed; on a network file system that another machine writes to there is none. "
                "The outbox is not listed each time."
            ),
            gt=0,
            le=3600,
        ),
    ] = 5.0
    gap_seconds: Annotated[
        float,
        Meta(
            description=(
                "How long the next segment may be missing while later ones are there before "
                "that is an alarm."
            ),
            ge=1,
            le=86400,
        ),
    ] = 60.0
    fill_gaps_from: Annotated[
        Path | None,
        Meta(
            description=(
                'For primary.source = "stream": a directory that the primary archives its WAL '
                "to, as plain files. What the primary has removed although it is still needed is "
                "read there; nothing in it is changed."
            ),
            examples=["/var/lib/postgresql/wal-archive"],
        ),
    ] = None

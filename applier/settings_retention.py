"""Settings of what is kept, and for how long: `[seeds]` and `[retention]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from logship.settings_schema import Section


class SeedsSettings(Section, frozen=True, kw_only=True):
    """Seeds that are kept beside the standby, to recover to a moment before now."""

    keep: Annotated[
        int,
        Meta(
            description=(
                "How many of each instance's newest seeds are kept, however they came; with them "
                "the WAL since the oldest. 0: none."
            ),
            ge=0,
            le=1000,
        ),
    ] = 0
    directory: Annotated[
        Path | None,
        Meta(
            description="Where they are kept; without it, `seeds` in `directory`.",
            examples=["/srv/logship-seeds"],
        ),
    ] = None


class RetentionSettings(Section, frozen=True, kw_only=True):
    """For how long WAL and seeds are kept.  What a standby or a kept seed needs always is."""

    window_hours: Annotated[
        int,
        Meta(
            description=(
                "WAL that arrived in the last so many hours stays in the store, and the kept "
                "seeds that are needed to recover to any moment since."
            ),
            ge=0,
            le=10 * 366 * 24,
        ),
    ] = 24
    previous_hours: Annotated[
        int,
        Meta(
            description=(
                "After a major upgrade of a primary the cluster of before is kept, and can be "
                "promoted, until the new one's standby has been streaming for so many hours."
            ),
            ge=0,
            le=10 * 366 * 24,
        ),
    ] = 72
    remove_from_bucket: Annotated[
        bool,
        Meta(
            description=(
                "Whether the same window is applied to the bucket, once a day, by this applier; "
                "one applier of a bucket is enough. false: nothing is removed from it."
            )
        ),
    ] = False
    bucket_seeds: Annotated[
        int,
        Meta(description="How many of the newest seeds stay in the bucket in any case.", ge=1),
    ] = 2

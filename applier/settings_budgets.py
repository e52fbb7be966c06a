"""Settings of what each instance may take: `[budgets]`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from applier.budgets.memory import LEAST_FLOOR_MB
from logship.settings_schema import Section


class BudgetsSettings(Section, frozen=True, kw_only=True):
    """What each instance may take, so that none can hurt another."""

    memory_mb: Annotated[
        int,
        Meta(
            description=(
                "Memory for all standbys together, in MB, shared out among them by rule. 0: no "
                "rule, each has standby.shared_buffers_mb."
            ),
            ge=0,
        ),
    ] = 0
    standby_floor_mb: Annotated[
        int,
        Meta(description="What each standby has of it at least, in MB.", ge=LEAST_FLOOR_MB),
    ] = 64
    promoted_share: Annotated[
        float,
        Meta(
            description=(
                "The part of memory_mb that is held back for promoted servers, all together: what "
                "one has more than a standby."
            ),
            ge=0,
            le=0.9,
        ),
    ] = 0.5
    cgroups: Annotated[
        Literal["auto", "off"],
        Meta(
            description=(
                '"auto": the kernel holds each server to its share of memory_mb, by a cgroup of '
                'its own, where this host permits that; "off": PostgreSQL\'s own parameters alone.'
            )
        ),
    ] = "auto"
    instance_disk_mb: Annotated[
        int,
        Meta(
            description=(
                "What one instance may take of the disk, its WAL and its standby, in MB. Past it "
                "nothing more of that instance is received. 0: no limit."
            ),
            ge=0,
        ),
    ] = 0
    intake_mb_per_second: Annotated[
        float,
        Meta(
            description=(
                "How fast the WAL of one instance is taken in at most, in MB a second on average. "
                "0: no limit."
            ),
            ge=0,
        ),
    ] = 0.0
    catch_ups: Annotated[
        int,
        Meta(
            description=(
                "How many instances may be seeded, or catch up with more than 64 MB of WAL, at "
                "once; the others wait for their turn. 0: no limit."
            ),
            ge=0,
        ),
    ] = 0

"""The shipper's `[bucket]`: how WAL and seeds are written into a bucket."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from logship import settings_bucket
from logship.settings_bucket import check_recipients


class BucketSettings(settings_bucket.BucketSettings, frozen=True, kw_only=True):
    """The bucket that WAL and seeds are put into, beside the link or instead of it.  Credentials
    come from where AWS's tools look for them: environment, files below ~/.aws, the machine's or
    the container's role."""

    recipients: Annotated[
        list[str],
        Meta(
            description=(
                "age recipients (public keys, age1...) to which everything is encrypted; each of "
                "them can read all. None: objects are not encrypted by us."
            ),
            extra={"check": check_recipients},
        ),
    ] = field(default_factory=list)
    max_delay_seconds: Annotated[
        float,
        Meta(
            description=(
                "WAL waits no longer than this before it is put: one request for each while "
                "something is written, none while nothing is."
            ),
            gt=0,
            le=3600,
        ),
    ] = 1.0
    max_object_mb: Annotated[
        int,
        Meta(description="Most WAL in one object, in MB before it is compressed.", ge=1, le=16),
    ] = 16
    compact_grace_seconds: Annotated[
        float,
        Meta(
            description=(
                "A finished segment is put as one object; the small ones that it replaces are "
                "removed so much later, for readers that are among them."
            ),
            ge=0,
            le=604800,
        ),
    ] = 600.0
    role: Annotated[
        Literal["required", "optional", "spill"],
        Meta(
            description=(
                '"required": the primary keeps its WAL until it is in the bucket as well. '
                '"optional": the bucket gets what it keeps up with. "spill": it is used only '
                "while the link is too far behind, see spill_after_mb and spill_after_seconds."
            )
        ),
    ] = "required"
    spill_after_mb: Annotated[
        int,
        Meta(
            description='role "spill": once the link has not acknowledged so much WAL, in MB.',
            ge=1,
            le=1 << 30,
        ),
    ] = 1024
    spill_after_seconds: Annotated[
        float,
        Meta(
            description='role "spill": once the link is down for so long, with WAL to ship.',
            ge=0,
            le=604800,
        ),
    ] = 60.0

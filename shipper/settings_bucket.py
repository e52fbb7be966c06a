"""The shipper's `[bucket]`: how WAL and seeds are written into a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta, field

from logship import settings_bucket
from logship.settings_bucket import check_recipients
from logship.settings_schema import Contradiction

MIN_ALIVE_SECONDS: Final = 10.0


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
    alive_every_seconds: Annotated[
        float,
        Meta(
            description=(
                "A sign of life is put so often, whether or not there is WAL, so that an applier "
                "that has the bucket alone can tell a shipper that is dead from a primary that "
                "writes nothing. 0: none; else at least 10."
            ),
            ge=0,
            le=86400,
        ),
    ] = 0.0

    def contradictions(self) -> Iterator[Contradiction]:
        yield from super().contradictions()
        if 0 < self.alive_every_seconds < MIN_ALIVE_SECONDS:
            yield Contradiction(
                ("alive_every_seconds",),
                f"bucket.alive_every_seconds is {self.alive_every_seconds:g}",
                f"give {MIN_ALIVE_SECONDS:g} at least, or 0 for none: each is a request",
            )
        if self.alive_every_seconds and self.role == "spill":
            yield Contradiction(
                ("alive_every_seconds",),
                'bucket.alive_every_seconds is given, and bucket.role is "spill"',
                "the link tells that the shipper lives; leave it out",
            )

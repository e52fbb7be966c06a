"""The destination of a shipper, from its settings: a link, a bucket, or both as one."""

from __future__ import annotations

from logship.bucket.keys import Keys
from logship.bucket.seed_archive import SeedArchiveWriter
from logship.identity import Profile
from logship.link.keys import load_pair, load_public
from logship.objects import ObjectStore
from logship.objects.encryption import Recipients
from logship.objects.opening import open_store
from shipper.destinations import Destination
from shipper.destinations.bucket.destination import BucketDestination
from shipper.destinations.bucket.options import BucketOptions
from shipper.destinations.link import LinkDestination, ShipperIdentity
from shipper.destinations.several.destination import SeveralDestinations, SeveralMember
from shipper.destinations.several.members import Role
from shipper.destinations.several.spill import SpillRule
from shipper.settings import LinkSettings, ShipperSettings
from shipper.settings_bucket import BucketSettings


def make_destination(
    settings: ShipperSettings, identity: ShipperIdentity, *, take_over: bool = False
) -> Destination:
    """take_over: of the bucket, whoever writes it now.

    Raises LogshipError: keys or recipients that can't be used.
    """
    link, bucket = settings.link, settings.bucket
    if bucket is None:
        assert link is not None, "the settings were checked for one of the two"
        return link_destination(link, identity)
    to_bucket = bucket_destination(settings, bucket, identity, take_over=take_over)
    if link is None:
        return to_bucket
    return SeveralDestinations(
        [
            SeveralMember(
                "link",
                Role.REQUIRED if link.required else Role.OPTIONAL,
                link_destination(link, identity),
            ),
            SeveralMember("bucket", Role(bucket.role), to_bucket),
        ],
        spill=(
            SpillRule(bucket.spill_after_mb << 20, bucket.spill_after_seconds)
            if bucket.role == "spill"
            else None
        ),
    )


def link_destination(link: LinkSettings, identity: ShipperIdentity) -> LinkDestination:
    """Raises LogshipError for keys that can't be used."""
    return LinkDestination(
        link.address,
        server_public_key=load_public(link.applier_key),
        keys=load_pair(link.secret_key_file),
        identity=identity,
    )


def bucket_destination(
    settings: ShipperSettings,
    bucket: BucketSettings,
    identity: ShipperIdentity,
    *,
    take_over: bool = False,
) -> BucketDestination:
    """Raises LogshipError for recipients or an AWS profile that can't be used."""
    recipients = Recipients(bucket.recipients)

    def seed_taker(store: ObjectStore, keys: Keys, profile: Profile) -> SeedArchiveWriter:
        return SeedArchiveWriter(store, keys, recipients, profile=profile)

    options = BucketOptions(
        instance=identity.instance,
        shipper_id=identity.shipper_id,
        boot_id=identity.boot_id,
        protection=identity.protection,
        state_directory=settings.instance_directory,
        take_over=take_over,
        max_delay_seconds=bucket.max_delay_seconds,
        max_object_bytes=bucket.max_object_mb << 20,
        compact_grace_seconds=bucket.compact_grace_seconds,
        sealed=bool(recipients),
        seed_every_hours=settings.seed.every_hours,
        alive_every_seconds=bucket.alive_every_seconds,
    )
    return BucketDestination(
        open_store(bucket), options, seal=recipients.seal, make_seed_taker=seed_taker
    )

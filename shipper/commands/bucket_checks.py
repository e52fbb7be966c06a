"""Whether the bucket takes what `shipper run` will ask of it, and whether we may write there."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from logship.checks import Check, fail, failed, ok, warn
from logship.errors import Code, LogshipError
from shipper.settings import ShipperSettings
from shipper.settings_bucket import BucketSettings

if TYPE_CHECKING:
    from logship.bucket.epoch import Epoch
    from logship.bucket.epoch_record import EpochRecord
    from logship.identity import Profile
    from logship.lsn import Position
    from logship.objects import ObjectStore


Ask = Callable[[], "tuple[Profile, Position] | None"]
"""The primary: what it is, and how far it has got now.  None: it does not say."""


def check_bucket(
    settings: ShipperSettings, bucket: BucketSettings, ask_primary: Ask
) -> Iterator[Check]:
    """Writes and removes objects below the instance's name; leaves none."""
    from logship.objects.opening import open_store

    try:
        store = open_store(bucket)
    except LogshipError as error:
        yield failed("bucket", error)
        return
    try:
        yield from _check_store(settings, store, ask_primary)
    finally:
        store.close()
    if bucket.recipients:
        count = len(bucket.recipients)
        yield ok("bucket-encryption", f"to {count} recipient{'s' if count != 1 else ''}")
    else:
        yield ok("bucket-encryption", "none of ours: objects are readable to who reads the bucket")
    if settings.protection == "sync" and bucket.role == "required":
        yield warn(
            "bucket-delay",
            f"commits wait for the bucket: up to {bucket.max_delay_seconds:g} s and a request",
            'lower bucket.max_delay_seconds, or give the bucket role = "optional" beside a link',
        )


def _check_store(
    settings: ShipperSettings, store: ObjectStore, ask_primary: Ask
) -> Iterator[Check]:
    from logship.objects.opening import prove_conditional_writes

    key = f"{settings.instance}/check-{uuid.uuid4().hex}"
    try:
        yield _check_epoch(settings, store, ask_primary)
        prove_conditional_writes(store, key)
        yield ok("bucket", f"{store.name} takes objects, and keeps the conditions of writes")
        list(store.listing(f"{settings.instance}/check-"))
        store.folders(f"{settings.instance}/")
        yield ok("bucket-list", "its objects can be listed")
        yield _check_removal(store, key)
    except LogshipError as error:
        yield failed("bucket", error)


def _check_removal(store: ObjectStore, key: str) -> Check:
    store.put(key, b"")
    kept = store.delete([key])
    if kept or store.describe(key) is not None:
        why = kept[0].why if kept else "it is still there"
        return warn(
            "bucket-delete",
            f"{store.name}: {key} could not be removed: {why}",
            "give the credentials that right, or small objects stay beside finished segments",
        )
    return ok("bucket-delete", "objects can be removed")


def _check_epoch(settings: ShipperSettings, store: ObjectStore, ask_primary: Ask) -> Check:
    from logship.bucket.epoch import Epoch, this_writer

    file = settings.instance_directory / "shipper-id"
    try:
        shipper_id = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        shipper_id = ""
    memory = settings.instance_directory / "epoch.json"
    epoch = Epoch(store, settings.instance, this_writer(shipper_id, ""), memory)
    try:
        holder = epoch.look()
    except LogshipError as error:
        if error.code in (Code.EPOCH_HELD, Code.FENCED):
            return fail("bucket-epoch", error.what, error.hint)
        raise
    if holder is None:
        return ok("bucket-epoch", "free")
    refused = _find_claim(settings, store, ask_primary, epoch, holder)
    if refused is not None:
        return fail("bucket-epoch", refused.what, refused.hint)
    return ok("bucket-epoch", f"written by this shipper, epoch {holder.number}")


def _find_claim(
    settings: ShipperSettings,
    store: ObjectStore,
    ask_primary: Ask,
    epoch: Epoch,
    holder: EpochRecord,
) -> LogshipError | None:
    """What `shipper run` would say to a primary that can't have written the log."""
    from logship.bucket.keys import Keys
    from shipper.destinations.bucket.chain import find_end
    from shipper.destinations.bucket.claim import is_before, is_known, no_writer
    from shipper.destinations.bucket.remembered import HINT_NAME, load_hint

    asked = ask_primary()
    if asked is None:
        return None
    profile = asked[0]
    keys = Keys(settings.instance, profile.incarnation)
    hint = load_hint(settings.instance_directory / HINT_NAME, store.name, keys.incarnation)
    end = find_end(store, keys, profile.wal_segment_size, hint)
    # Once more: where a shipper runs, the log has gone on meanwhile.
    asked = ask_primary() if end is not None else None
    if end is None or asked is None or asked[0].incarnation != keys.incarnation:
        return None
    position = asked[1]
    if not is_before(position, end) or is_known(epoch, hint, end):
        return None
    return no_writer(store, keys, holder, end, position)

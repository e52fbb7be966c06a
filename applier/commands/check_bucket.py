"""The part of `applier check` that looks at the bucket.  Writes nothing there."""

from __future__ import annotations

from collections.abc import Iterator

from applier.settings import ApplierSettings, BucketSettings
from logship.bucket.keys import Keys
from logship.checks import Check, failed, ok, warn
from logship.errors import LogshipError
from logship.objects import ObjectStore
from logship.objects.encryption import Identities
from logship.objects.opening import open_store


def check_bucket(settings: ApplierSettings) -> Iterator[Check]:
    """Whether it answers, what is in it, and whether the identities open that."""
    bucket = settings.bucket
    if bucket is None:
        return
    identities = None
    try:
        identities = Identities(bucket.identity_files)
        known = ", ".join(identities.recipients) or "none: only what is not encrypted is read"
        yield ok("identities", known)
    except LogshipError as error:
        yield failed("identities", error)
    try:
        store = open_store(bucket)
    except LogshipError as error:
        yield failed("bucket", error)
        return
    try:
        yield from _look(settings, bucket, store, identities)
    finally:
        store.close()


def _look(
    settings: ApplierSettings,
    bucket: BucketSettings,
    store: ObjectStore,
    identities: Identities | None,
) -> Iterator[Check]:
    try:
        store.folders("")
        yield ok("bucket", f"{store.name} answers; it is asked every {bucket.poll_seconds:g} s")
    except LogshipError as error:
        yield failed("bucket", error)
        return
    for name in settings.instances:
        if settings.is_attached(name) and identities is not None:
            yield _instance(name, store, identities)


def _instance(name: str, store: ObjectStore, identities: Identities) -> Check:
    from applier.receivers.bucket.contents import Contents, choose_incarnation

    check_name = f"bucket:{name}"
    try:
        chosen = choose_incarnation(store, name, None)
        if chosen is None:
            return warn(
                check_name,
                f"nothing of {name} is in {store.name} yet",
                "start its shipper; if it runs, compare the two urls",
            )
        seeds = Contents(store, Keys(name, chosen), identities).prove()
    except LogshipError as error:
        return failed(check_name, error)
    if not seeds:
        return warn(
            check_name,
            f"cluster {chosen} is there and can be opened; it has no complete seed yet",
            "one is made when its shipper first runs; `shipper status` shows its progress",
        )
    return ok(check_name, f"cluster {chosen} is there and can be opened; seeds: {len(seeds)}")

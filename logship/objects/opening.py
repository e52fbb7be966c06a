"""From settings to an object store."""

from __future__ import annotations

from logship.errors import Code, LogshipError
from logship.objects import ConditionFailedError, ObjectStore
from logship.objects.directory import DirectoryStore
from logship.settings_bucket import BucketSettings

_PROOF = b"Left behind if Logship died while it looked whether conditional writes are kept.\n"


def open_store(settings: BucketSettings) -> ObjectStore:
    """The bucket that `settings` names.  Speaks to nobody yet: the first call does.

    Raises LogshipError(BUCKET_REFUSED) if no such AWS profile is there.  The first s3:// one of
    a process costs a third of a second.
    """
    place = settings.place
    if place.directory is not None:
        return DirectoryStore(place.directory)
    # Importing boto3 takes longer than most commands may.
    from logship.objects.s3 import S3Store

    return S3Store(settings)


def prove_conditional_writes(store: ObjectStore, key: str) -> None:
    """Check that `store` keeps the promise on which "one writer" stands, by writing `key`.

    Some S3 servers ignore the condition of a write and replace the object.  `key` must be
    nobody's; it is removed in the end.  Raises LogshipError(BUCKET_REFUSED) where a write that
    must fail was made, and whatever the store itself raises.
    """
    etag = store.put(key, _PROOF)
    try:
        for condition in ("only_if_absent", "only_if_etag"):
            try:
                if condition == "only_if_absent":
                    store.put(key, _PROOF, only_if_absent=True)
                else:
                    store.put(key, _PROOF, only_if_etag="0" * len(etag))
            except ConditionFailedError:
                continue
            raise LogshipError(
                Code.BUCKET_REFUSED,
                f"{store.name}: the server replaces an object although it was told not to "
                f"({condition})",
                "two shippers could write one log: use a server that has conditional writes",
            )
    finally:
        store.delete([key])

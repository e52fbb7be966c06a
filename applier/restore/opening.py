"""From the applier's settings, and what a command says besides, to the sources of a restore."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from applier.fleet.places import InstancePlaces
from applier.restore.sources import Archive, Sources, open_sources
from applier.restore.window import Heard
from applier.retention.leases import HeldLease
from applier.settings import ApplierSettings, BucketSettings
from logship.applier_client import ApplierClient
from logship.errors import Code, LogshipError, UsageError
from logship.identity import check_instance_name
from logship.lsn import Lsn
from logship.objects.directory import DirectoryStore
from logship.objects.encryption import Identities
from logship.objects.opening import open_store
from logship.settings_bucket import parse_bucket_url

_MICROSECONDS: Final = 1_000_000

log = structlog.get_logger(__name__)


class Places(NamedTuple):
    """What a command's options say of where things are kept."""

    bucket_url: str = ""
    """"": the settings' own."""
    use_bucket: bool = True
    identity_files: Sequence[Path] = ()
    seed_directories: Sequence[Path] = ()
    timeline: int | None = None


@contextlib.contextmanager
def with_a_way_out() -> Iterator[None]:
    """A bucket that does not answer is not the end: the hint says how to do without."""
    try:
        yield
    except LogshipError as error:
        if error.code not in (Code.BUCKET_UNREACHABLE, Code.BUCKET_REFUSED):
            raise
        hint = f"{error.hint} (--no-bucket does with what is on this machine's disks)"
        raise LogshipError(error.code, error.what, hint, retryable=error.retryable) from error


def hold_and_open(
    settings: ApplierSettings, name: str, places: Places, spool_directory: Path
) -> Sources:
    """As `open_from_settings`, for a restore: this machine's retention leaves all of it alone
    until `close`.  Where that can't be arranged, as for a user who may not write there, the
    sources' `lease` is None."""
    check_instance_name(name)
    try:
        # First: what is found afterwards stays.
        lease = HeldLease.take(InstancePlaces(settings.directory, name).home)
    except OSError as error:
        log.warning("retention is not told of this restore", error=str(error))
        lease = None
    try:
        sources = open_from_settings(settings, name, places, spool_directory)
    except BaseException:
        if lease is not None:
            lease.release()
        raise
    sources.lease = lease
    return sources


@with_a_way_out()
def open_from_settings(
    settings: ApplierSettings, name: str, places: Places, spool_directory: Path
) -> Sources:
    """As `open_sources`.  Raises LogshipError as it does, and UsageError for a bucket's URL
    that is none.  Blocks."""
    check_instance_name(name)
    for directory in places.seed_directories:
        if not directory.is_dir():
            raise UsageError(
                Code.USAGE, f"there is no directory {directory}", "name one that holds seeds"
            )
    own_seeds = [settings.seeds_directory] if settings.seeds_directory.is_dir() else []
    bucket = bucket_settings(settings, name, places)
    files = [*places.identity_files, *(bucket.identity_files if bucket is not None else [])]
    identities = Identities(files)
    return open_sources(
        name,
        InstancePlaces(settings.directory, name),
        spool_directory,
        bucket=Archive(open_store(bucket), identities) if bucket is not None else None,
        seed_places=[
            Archive(DirectoryStore(directory), identities)
            for directory in [*places.seed_directories, *own_seeds]
        ],
        timeline=places.timeline,
        heard=_heard_by_applier(settings, name),
    )


def bucket_settings(settings: ApplierSettings, name: str, places: Places) -> BucketSettings | None:
    """Of the bucket to read: the one named, else the settings' own, if the instance is in it."""
    if not places.use_bucket:
        return None
    url = places.bucket_url
    if not url:
        known = name in settings.instances
        return settings.bucket if not known or settings.is_attached(name) else None
    try:
        is_directory = parse_bucket_url(url).directory is not None
    except ValueError as error:
        raise UsageError(
            Code.USAGE, f"{url!r} is no bucket: {error}", "s3://BUCKET/PREFIX or file:///DIRECTORY"
        ) from error
    own = settings.bucket
    if own is None:
        return BucketSettings(url=url)
    if is_directory == (own.place.directory is not None):
        # Another bucket of the same server, with the same credentials.
        return msgspec.structs.replace(own, url=url)
    return BucketSettings(url=url, identity_files=own.identity_files)


def _heard_by_applier(settings: ApplierSettings, name: str) -> Heard | None:
    """What a running applier heard of the primary last; it writes that down only now and then."""
    try:
        primary = ApplierClient(settings.api.socket).instance(name)["primary"]
    except LogshipError:
        return None
    timeline, lsn, at = primary["timeline"], primary["flush_lsn"], primary["heard_at"]
    if timeline is None or lsn is None or at is None:
        return None
    return Heard(timeline, Lsn.parse(lsn), int(at * _MICROSECONDS))

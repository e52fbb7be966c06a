"""What is remembered of an instance over restarts: `instance.json`, one durable file.

The fence is the important part: it is written before anything is promoted and is never
taken back by a restart.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from applier.compat import Lack
from applier.fleet.places import IncarnationPlaces, InstancePlaces, Volumes
from logship import durable
from logship.decoders import json_decoder
from logship.documents import UNREADABLE, not_written
from logship.errors import Code, LogshipError
from logship.identity import Incarnation, Profile
from logship.lsn import plain_lsn

FORMAT = 1


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """The last flush position that the primary was heard to have."""

    timeline: int
    lsn: int
    at: float
    """Seconds since the epoch by the applier's clock."""


class Fence(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing of the old line is accepted since `at`."""

    at: float
    reason: str
    left: str = ""
    """What a promotion of an older cluster leaves out, in words; "" if it is none."""


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """What a promotion did, and what it could not bring back.

    `lost_bytes` is WAL that the primary was heard to have flushed and that was not durable
    here; None when the primary was never heard.  What the primary flushed after `heard` is
    not in it: nobody here can know.
    """

    at: float
    offline: bool
    opened_timeline: int
    opened_lsn: int
    durable_timeline: int
    durable_lsn: int
    heard: Heard | None
    lost_bytes: int | None
    unreplayed_bytes: int
    """Durable here and not replayed: the end of the log stops in mid-record, as a rule."""
    promote_seconds: float
    first_write_seconds: float
    port: int
    bucket: str = ""
    """Why more may lie in the bucket than was fetched, in words; "" if that is not so."""
    left: str = ""
    """What is not in it because an older cluster was promoted, in words; "" if that is not so."""
    warnings: tuple[str, ...] = ()
    """What the standby was found to have otherwise than its primary, and what to do about it."""


class KeptIncarnation(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster that the instance was before another one took its place.  Its store and its
    standby's data stay where they were, and it can be promoted until it is removed.

    Fields that `InstanceRecord` has as well are what they were there.
    """

    incarnation: Incarnation
    profile: Profile
    protection: str = ""
    heard: Heard | None = None
    bucket_seed_id: str = ""
    held_lsn: int | None = None
    lacking: tuple[Lack, ...] = ()
    installation: str = ""
    volumes: Volumes = Volumes()
    at: float
    """When it was set aside; seconds since the epoch, as all times here."""
    durable: str = ""
    """Up to where its WAL is here (timeline, then position); "": there is none."""
    for_promotion: bool = False
    """It was set aside so that an older cluster could be promoted: nothing removes it by itself."""
    left: str = ""
    """What a promotion of that older cluster leaves out, in words."""
    replaced_at: float | None = None
    """Since when its successor's standby streams; None: it does not yet."""
    is_removed: bool = False
    """Nobody wants it any more: what is left of its files goes."""


class InstanceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """instance.json.  Replaced as a whole by `save_record`."""

    format: int = FORMAT
    name: str
    incarnation: Incarnation | None = None
    profile: Profile | None = None
    protection: str = ""
    """As the shipper's settings say, from its last hello."""
    fence: Fence | None = None
    promotion: Promotion | None = None
    heard: Heard | None = None
    bucket_seed_id: str = ""
    """The last seed that a bucket began: cut off by a restart, it is the bucket's to bring."""
    held_lsn: int | None = None
    """Where the version check stopped the standby; None while it passes.  WAL from here on was
    never checked against this standby, whatever restarts in between."""
    lacking: tuple[Lack, ...] = ()
    """What the version check last saw that the standby lacks: it stays blocked for that while
    one of the two sides is not known."""
    installation: str = ""
    """The PostgreSQL that an operator chose for the standby, as 17.10; "": the nearest."""
    volumes: Volumes = Volumes()
    """Where the files of the incarnation are; settings that change later move nothing."""
    previous: tuple[KeptIncarnation, ...] = ()
    """What the instance was before, the newest last."""
    accepted: Incarnation | None = None
    """Another cluster that an operator lets in under this instance's name when it comes."""


def kept_of(record: InstanceRecord, incarnation: Incarnation) -> KeptIncarnation | None:
    """What is kept of a cluster that the instance was before; None: nothing."""
    return next((each for each in record.previous if each.incarnation == incarnation), None)


class _Format(msgspec.Struct):
    format: int = FORMAT


def record_path(instance_directory: Path) -> Path:
    return instance_directory / "instance.json"


def load_record(instance_directory: Path, name: str) -> InstanceRecord:
    """Read an instance's record; a fresh one when there is none yet.

    Raises LogshipError(STORE_DAMAGED): an unreadable record might hide a fence, so nothing
    is assumed in its place.
    """
    path = record_path(instance_directory)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return InstanceRecord(name=name)
    except OSError as error:
        raise LogshipError(
            Code.STORE_FAILED,
            f"{path} can't be read: {error.strerror}",
            "give it to the user that the applier runs as",
            retryable=True,
        ) from error
    try:
        # First: what a newer version wrote is not damaged only because it is not read here.
        newest = json_decoder(_Format).decode(data).format
        if newest > FORMAT:
            raise LogshipError(
                Code.STORE_DAMAGED,
                f"{path} was written by a newer Logship (format {newest})",
                "run the newer version",
            )
        return json_decoder(InstanceRecord).decode(data)
    except UNREADABLE as error:
        raise LogshipError(
            Code.STORE_DAMAGED,
            f"{path} can't be read: {error}",
            "restore it from a backup; without it nobody knows whether this instance is fenced",
        ) from error


def save_record(instance_directory: Path, record: InstanceRecord) -> None:
    """Replace the record durably.  Blocking.

    Raises LogshipError (DISK_FULL, STORE_FAILED; both retryable): the one before stands.
    """
    data = msgspec.json.format(msgspec.json.encode(record, enc_hook=plain_lsn), indent=2)
    path = record_path(instance_directory)
    try:
        durable.write_file(path, data + b"\n", mode=0o600)
    except OSError as error:
        raise not_written(path, error) from error


def known_places(directory: Path, name: str) -> IncarnationPlaces | None:
    """Where the files of an instance's incarnation are, as its record says; None: it has none.

    directory: the applier's.  Raises as `load_record`.  Blocking.
    """
    places = InstancePlaces(directory, name)
    record = load_record(places.home, name)
    if record.incarnation is None:
        return None
    return places.of(record.incarnation, record.volumes)

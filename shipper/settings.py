"""What a shipper is told: one settings file for each instance it ships."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, field

from logship.settings import LogSettings, check_name, load_settings
from logship.settings_network import check_address, check_one_of_key_and_file, check_public_key
from logship.settings_schema import Contradiction, Section
from shipper.settings_archive import ArchiveSettings
from shipper.settings_bucket import BucketSettings

DEFAULT_SETTINGS_FILE: Final = Path("/etc/logship/shipper.toml")

_OUR_PARAMETERS = {
    "replication": "remove it: the shipper asks for replication itself",
    "application_name": (
        "remove it: the shipper is always logship_INSTANCE, as synchronous_standby_names needs"
    ),
    "connect_timeout": "remove it and use primary.connect_timeout_seconds",
}
"""Of libpq's parameters, those that a connection string may not set, and what to do."""

_NOT_A_PRIMARY = ("read-only", "standby", "prefer-standby")


def _check_conninfo(key: str, conninfo: str) -> Iterator[tuple[str, str]]:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parameters = conninfo_to_dict(conninfo)
    except ProgrammingError:
        # libpq's message repeats the words it stumbled over, which may be a password's.
        yield (
            f"{key} is not a libpq connection string",
            "use name=value pairs or a postgresql:// URI; quote values that have spaces: 'a b'",
        )
        return
    for name, hint in _OUR_PARAMETERS.items():
        if name in parameters:
            yield f"{key} sets {name}, which is not its place", hint
    if parameters.get("target_session_attrs") in _NOT_A_PRIMARY:
        yield (
            f"{key} asks for a standby with target_session_attrs",
            "a shipper reads from the primary: use target_session_attrs=read-write",
        )


class PrimarySettings(Section, frozen=True, kw_only=True):
    """The production server whose WAL is shipped."""

    conninfo: Annotated[
        str,
        Meta(
            description=(
                "A libpq connection string or URI. Better than a password in it: a passfile "
                "(passfile=...), a service (service=...) or peer authentication. With several "
                "hosts add target_session_attrs=read-write. Without dbname, the database is "
                '"postgres".'
            ),
            examples=["host=/var/run/postgresql user=logship"],
            min_length=1,
            extra={"check": _check_conninfo},
        ),
    ]
    source: Annotated[
        Literal["stream", "archive"],
        Meta(
            description=(
                '"stream": WAL comes over a replication connection, as it is flushed. "archive": '
                "it comes segment by segment from an outbox that the primary's archiver fills, "
                "see [archive]; the primary is asked what it is, and seeds come from it."
            )
        ),
    ] = "stream"
    slot: Annotated[
        str,
        Meta(
            description=(
                "Physical replication slot that keeps WAL until it is durable on the recovery "
                'server. Empty: logship_INSTANCE, with "_" for every "-".'
            ),
            pattern=r"^[a-z0-9_]{0,63}$",
            extra={"shape": "a slot name: at most 63 of a-z, 0-9 and '_'"},
        ),
    ] = ""
    create_slot: Annotated[bool, Meta(description="Create the slot when it is not there.")] = True
    connect_timeout_seconds: Annotated[
        int, Meta(description="Longest wait for one connection attempt.", ge=1, le=600)
    ] = 10
    status_interval_seconds: Annotated[
        float,
        Meta(
            description=(
                "How often the primary is told the durable position when nothing moves; keep it "
                "well below the primary's wal_sender_timeout. Progress is reported at once."
            ),
            gt=0,
            le=600,
        ),
    ] = 10.0


class LinkSettings(Section, frozen=True, kw_only=True):
    """The live way to the recovery server.  Encrypted and authenticated with CURVE keys, always."""

    address: Annotated[
        str,
        Meta(
            description="Where the applier listens.",
            examples=["tcp://recovery.example.com:7432"],
            extra={"shape": "tcp://HOST:PORT", "check": check_address},
        ),
    ]
    applier_public_key: Annotated[
        str,
        Meta(
            description="The applier's public key (40 characters); this or the file.",
            extra={"check": check_public_key},
        ),
    ] = ""
    applier_public_key_file: Annotated[
        Path | None,
        Meta(
            description="The file of the applier's public key, as `keygen` wrote it (.pub).",
            examples=["/etc/logship/applier.pub"],
            extra={"suggested": True},
        ),
    ] = None
    secret_key_file: Annotated[
        Path,
        Meta(
            description="The file of this shipper's secret key, as `keygen` wrote it (.key).",
            examples=["/etc/logship/shipper.key"],
        ),
    ]
    compress: Annotated[
        bool, Meta(description="Compress WAL and seeds with zstd before they travel.")
    ] = True
    required: Annotated[
        bool,
        Meta(
            description=(
                "The primary keeps its WAL until the recovery server has it. false: with a "
                "required bucket, WAL that is in that may be gone from the primary."
            )
        ),
    ] = True

    @property
    def applier_key(self) -> str | Path:
        """The applier's public key or its file, for `logship.link.keys.load_public`."""
        return self.applier_public_key_file or self.applier_public_key

    def contradictions(self) -> Iterator[Contradiction]:
        yield from check_one_of_key_and_file(
            ("applier_public_key",), self.applier_public_key, self.applier_public_key_file
        )


class SeedSettings(Section, frozen=True, kw_only=True):
    """Base backups, from which standbys start."""

    checkpoint: Annotated[
        Literal["fast", "spread"],
        Meta(
            description=(
                '"fast" starts at once and costs the primary a checkpoint; "spread" waits for '
                "one that is paced by checkpoint_completion_target."
            )
        ),
    ] = "fast"
    max_rate_mb_s: Annotated[
        int,
        Meta(
            description="The primary sends no more than this, in MB a second; 0: no limit.",
            ge=0,
            le=1023,
        ),
    ] = 0
    every_hours: Annotated[
        float,
        Meta(
            description=(
                "A seed is put into the bucket so often: how far back a recovery has to replay. "
                "0: only the first, and those that `shipper seed` asks for."
            ),
            ge=0,
            le=8784,
        ),
    ] = 0.0


class ShipperSettings(Section, frozen=True, kw_only=True):
    """Settings of `shipper run`: one instance, its primary, and the roads: a link, a bucket, or
    both."""

    instance: Annotated[
        str,
        Meta(
            description="The instance's name, the same as in the applier's settings.",
            examples=["main"],
            extra={"check": check_name},
        ),
    ]
    state_directory: Annotated[
        Path,
        Meta(
            description="What the shipper remembers over restarts, in a folder for each instance."
        ),
    ] = Path("/var/lib/logship/shipper")
    protection: Annotated[
        Literal["async", "sync"],
        Meta(
            description=(
                '"sync": the shipper answers as a synchronous standby, so a commit waits until '
                "it is durable on the recovery server; the primary's synchronous_standby_names "
                'must name it. "async": commits never wait.'
            )
        ),
    ] = "async"
    primary: PrimarySettings
    link: Annotated[LinkSettings | None, Meta(extra={"suggested": True})] = None
    bucket: BucketSettings | None = None
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)
    seed: SeedSettings = field(default_factory=SeedSettings)
    log: LogSettings = field(default_factory=LogSettings)

    @property
    def slot_name(self) -> str:
        """The slot in use, the default filled in."""
        return self.primary.slot or self.application_name

    @property
    def application_name(self) -> str:
        """What the shipper calls itself on the primary, and what synchronous_standby_names
        must name.  Never needs quotes there."""
        return "logship_" + self.instance.replace("-", "_")

    @property
    def instance_directory(self) -> Path:
        """Where this instance's state is kept."""
        return self.state_directory / self.instance

    def contradictions(self) -> Iterator[Contradiction]:
        yield from self._archive_contradictions()
        yield from self._road_contradictions()

    def _road_contradictions(self) -> Iterator[Contradiction]:
        link, bucket = self.link, self.bucket
        if link is None and bucket is None:
            yield Contradiction(
                ("link",),
                "neither [link] nor [bucket] is there: WAL has no way to the recovery server",
                "give one of them, or both; `shipper init` writes both",
            )
        if link is None and bucket is not None and bucket.role != "required":
            yield Contradiction(
                ("bucket", "role"),
                f'bucket.role is "{bucket.role}", and there is no [link]',
                'the only road must be "required"',
            )
        if link is not None and not link.required and (bucket is None or bucket.role != "required"):
            yield Contradiction(
                ("link", "required"),
                "link.required is false, and no bucket is required",
                "one road must be required: the primary's slot follows it",
            )

    def _archive_contradictions(self) -> Iterator[Contradiction]:
        if self.primary.source != "archive":
            return
        if self.archive.fill_gaps_from is not None:
            yield Contradiction(
                ("archive", "fill_gaps_from"),
                'archive.fill_gaps_from is given, and primary.source is "archive"',
                "put missing segments into the outbox, or leave it out",
            )
        if self.archive.outbox is None:
            yield Contradiction(
                ("archive", "outbox"),
                'archive.outbox is missing, and primary.source is "archive"',
                "name the directory that the primary's archiver fills",
            )
        if self.protection == "sync":
            yield Contradiction(
                ("protection",),
                'protection is "sync", and primary.source is "archive"',
                "a segment is archived long after its commits: a commit can't wait for it. "
                'Use protection = "async", or primary.source = "stream"',
            )


def load_shipper_settings(file: Path) -> ShipperSettings:
    """Read a shipper's settings.  Raises SettingsError with everything that is wrong."""
    return load_settings(file, ShipperSettings)

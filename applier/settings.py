"""What the applier is told: one settings file for the recovery server and all instances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, field

from applier.fleet.ports import check_ports
from applier.settings_budgets import BudgetsSettings
from applier.settings_retention import RetentionSettings, SeedsSettings
from logship.errors import UsageError
from logship.settings import LogSettings, check_name, load_settings
from logship.settings_bucket import BucketSettings as PlaceOfBucket
from logship.settings_network import (
    check_listen,
    check_one_of_key_and_file,
    check_public_key,
    parse_tcp_endpoint,
)
from logship.settings_schema import Contradiction, Section

DEFAULT_SETTINGS_FILE: Final = Path("/etc/logship/applier.toml")

Parameter = str | int | float | bool
"""A value of one of PostgreSQL's own settings."""


def _check_parameter(key: str, entry: tuple[str, Parameter]) -> Iterator[tuple[str, str]]:
    from applier.standby.configuration import check_operator_settings

    name, value = entry
    if name.lower() == "shared_buffers":
        yield f"{key} has its own setting", "use shared_buffers_mb"
        return
    try:
        check_operator_settings({name: value})
    except UsageError as error:
        yield f"{key}: {error.what}", error.hint


class LinkSettings(Section, frozen=True, kw_only=True):
    """Where shippers connect: one port for all instances."""

    listen: Annotated[
        str,
        Meta(
            description="Address to listen on; `*` is every interface.",
            extra={"shape": "tcp://ADDRESS:PORT", "check": check_listen},
        ),
    ] = "tcp://*:7432"
    secret_key_file: Annotated[
        Path,
        Meta(description="The file of the applier's secret key, as `keygen` wrote it (.key)."),
    ] = Path("/etc/logship/applier.key")
    window_mb: Annotated[
        int,
        Meta(
            description="How much one shipper may have in flight, not yet acknowledged, in MB.",
            ge=1,
            le=1024,
        ),
    ] = 16
    heartbeat_seconds: Annotated[
        float,
        Meta(
            description=(
                "Both ends speak at least this often; a link that is silent for three times as "
                "long is lost."
            ),
            ge=0.1,
            le=60,
        ),
    ] = 2.0


class ApiSettings(Section, frozen=True, kw_only=True):
    """The operators' way in: HTTP on a unix socket, for `shipper status` and `promote`."""

    socket: Annotated[
        Path,
        Meta(
            description="Path of the socket. Who may write to it may promote and remove instances."
        ),
    ] = Path("/run/logship/applier.sock")
    group: Annotated[
        str,
        Meta(description="Group that may use the socket besides its owner; empty: no one."),
    ] = ""


class WalServerSettings(Section, frozen=True, kw_only=True):
    """Where the standbys stream from: PostgreSQL's replication protocol on a unix socket."""

    socket_directory: Annotated[
        Path, Meta(description="Directory of the socket `.s.PGSQL.PORT`.")
    ] = Path("/run/logship/wal")
    port: Annotated[int, Meta(description="The number in the socket's name.", ge=1, le=65535)] = (
        5432
    )


class PostgresSettings(Section, frozen=True, kw_only=True):
    """The PostgreSQL servers that run the standbys."""

    installations: Annotated[
        list[Path],
        Meta(
            description=(
                "Directories to look for PostgreSQL in, each an installation (it has bin/) or a "
                "directory of installations, besides the places where packages put it."
            )
        ),
    ] = field(default_factory=list)
    run_as: Annotated[
        str,
        Meta(
            description=(
                "User who runs the standbys when the applier runs as root (PostgreSQL refuses "
                "to); empty: the applier's own user."
            )
        ),
    ] = ""
    look_seconds: Annotated[
        float,
        Meta(
            description=(
                "How often it is looked whether PostgreSQL, its extensions, or the libraries that "
                "it orders text with, were installed, upgraded or removed. A change is acted on "
                "when the next look finds no further one."
            ),
            ge=0.1,
            le=86400,
        ),
    ] = 60.0


class StoreSettings(Section, frozen=True, kw_only=True):
    """The durable WAL on the recovery server."""

    keep_free_mb: Annotated[
        int,
        Meta(
            description=(
                "Receiving pauses, and shippers hold their WAL, when the disk has less than this "
                "free, in MB: standbys need room to go on."
            ),
            ge=0,
        ),
    ] = 1024
    volumes: Annotated[
        list[Path],
        Meta(
            description=(
                "Directories, each on a volume of its own. The WAL of a new cluster goes to the "
                "one with the most free room, and stays there. None: to `directory`."
            )
        ),
    ] = field(default_factory=list)


class StandbySettings(Section, frozen=True, kw_only=True):
    """What every standby gets unless its instance says otherwise."""

    shared_buffers_mb: Annotated[
        int, Meta(description="shared_buffers of a standby that follows, in MB.", ge=1)
    ] = 128
    listen_addresses: Annotated[
        str,
        Meta(description='TCP addresses of a standby; empty: its unix socket only. "*": all.'),
    ] = ""
    private_paths: Annotated[
        Literal["auto", "never"],
        Meta(
            description=(
                'How a standby has the path of a tablespace that its primary makes: "auto": for '
                'itself alone, in a mount namespace, where the machine permits that; "never": it '
                "waits for an operator to make the directory."
            )
        ),
    ] = "auto"
    settings: Annotated[
        dict[str, Parameter],
        Meta(
            description="Other settings of PostgreSQL for the standbys, name = value.",
            extra={"check_entry": _check_parameter},
        ),
    ] = field(default_factory=dict)
    stop_with_applier: Annotated[
        bool,
        Meta(
            description=(
                "Stop the standbys, and promoted servers, when the applier stops: for a container, "
                "which ends with the applier, and all that runs in it. false: they go on, and the "
                "next applier takes them up."
            )
        ),
    ] = False
    volumes: Annotated[
        list[Path],
        Meta(
            description=(
                "Directories, each on a volume of its own. The data of a new cluster's standby "
                "goes to the one with the most free room, and stays there. None: to `directory`."
            )
        ),
    ] = field(default_factory=list)


class FleetSettings(Section, frozen=True, kw_only=True):
    """Instances that are added while the applier runs (`applier add`)."""

    ports: Annotated[
        str,
        Meta(
            description="Ports for the standbys of instances that are added without one.",
            extra={"shape": "FIRST-LAST", "check": check_ports},
        ),
    ] = "5433-5499"


class BucketSettings(PlaceOfBucket, frozen=True, kw_only=True):
    """A bucket that shippers write to. It is read while a shipper's link is away, to fill what
    the link could not bring, and for instances that have no link."""

    identity_files: Annotated[
        list[Path],
        Meta(
            description=(
                "Files with the age identities that open what shippers encrypted, one AGE-SECRET-"
                "KEY-1... a line, mode 0600. While keys are changed: the old and the new one."
            )
        ),
    ] = field(default_factory=list)
    poll_seconds: Annotated[
        float,
        Meta(
            description=(
                "How often to ask for the next object of an instance when all that was there is "
                "read: one request each."
            ),
            ge=0.05,
            le=3600,
        ),
    ] = 1.0
    prefetch_mb: Annotated[
        int,
        Meta(
            description=(
                "How much may be fetched ahead of what is being stored, in MB, for all instances "
                "together."
            ),
            ge=1,
            le=65536,
        ),
    ] = 128


class InstanceSettings(Section, frozen=True, kw_only=True):
    """One protected cluster, by its name."""

    public_key: Annotated[
        str,
        Meta(
            description=(
                "Public key of its shipper (40 characters); this or the file. With neither it "
                "has no link, and comes through the bucket alone."
            ),
            extra={"check": check_public_key},
        ),
    ] = ""
    public_key_file: Annotated[
        Path | None,
        Meta(
            description="The file of its shipper's public key, as `keygen` wrote it (.pub).",
            examples=["/etc/logship/main.pub"],
            extra={"suggested": True},
        ),
    ] = None
    port: Annotated[
        int,
        Meta(
            description="Port of its standby, before and after a promotion. Its own.",
            examples=[5433],
            ge=1,
            le=65535,
        ),
    ]
    listen_addresses: Annotated[
        str | None, Meta(description="Instead of standby.listen_addresses.")
    ] = None
    shared_buffers_mb: Annotated[
        int | None,
        Meta(
            description="Instead of standby.shared_buffers_mb, or of what budgets.memory_mb gives.",
            ge=1,
        ),
    ] = None
    settings: Annotated[
        dict[str, Parameter],
        Meta(
            description="Other settings of PostgreSQL, on top of those in standby.settings.",
            extra={"check_entry": _check_parameter},
        ),
    ] = field(default_factory=dict)
    seed: Annotated[
        Literal["auto", "manual"],
        Meta(
            description=(
                '"auto": an instance that has nothing yet is seeded when its shipper connects; '
                '"manual": only `applier seed NAME` starts a seed.'
            )
        ),
    ] = "auto"
    bucket: Annotated[
        bool | None,
        Meta(
            description=(
                "Whether it is read from the bucket. Not given: if there is a table [bucket]."
            )
        ),
    ] = None
    run_standby: Annotated[
        bool, Meta(description="false: its WAL is only received and stored.")
    ] = True
    overrides: Annotated[
        list[str],
        Meta(
            description=(
                "Rules of the version check that may not block this instance, by name. At your "
                "own risk: `shipper status NAME` shows the rules and what they found."
            )
        ),
    ] = field(default_factory=list)

    disk_mb: Annotated[
        int | None, Meta(description="Instead of budgets.instance_disk_mb.", ge=0)
    ] = None
    intake_mb_per_second: Annotated[
        float | None, Meta(description="Instead of budgets.intake_mb_per_second.", ge=0)
    ] = None
    priority: Annotated[
        int,
        Meta(
            description=(
                "The greater comes first where budgets.catch_ups lets only some be seeded or "
                "catch up. Who waits rises by one every five minutes."
            ),
            ge=0,
            le=9,
        ),
    ] = 5

    @property
    def has_link(self) -> bool:
        """Whether its shipper may come by the link."""
        return bool(self.public_key) or self.public_key_file is not None

    @property
    def shipper_key(self) -> str | Path:
        """Its shipper's public key or its file, for `logship.link.keys.load_public`."""
        return self.public_key_file or self.public_key

    def contradictions(self) -> Iterator[Contradiction]:
        if self.has_link:
            yield from check_one_of_key_and_file(
                ("public_key",), self.public_key, self.public_key_file
            )


class ApplierSettings(Section, frozen=True, kw_only=True):
    """Settings of `applier run`."""

    directory: Annotated[
        Path, Meta(description="Where WAL, standbys and what the applier remembers are kept.")
    ] = Path("/var/lib/logship")
    link: LinkSettings = field(default_factory=LinkSettings)
    bucket: BucketSettings | None = None
    api: ApiSettings = field(default_factory=ApiSettings)
    wal_server: WalServerSettings = field(default_factory=WalServerSettings)
    postgres: PostgresSettings = field(default_factory=PostgresSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    seeds: SeedsSettings = field(default_factory=SeedsSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    standby: StandbySettings = field(default_factory=StandbySettings)
    fleet: FleetSettings = field(default_factory=FleetSettings)
    budgets: BudgetsSettings = field(default_factory=BudgetsSettings)
    log: LogSettings = field(default_factory=LogSettings)
    instances: Annotated[
        dict[str, InstanceSettings],
        Meta(
            description="The protected clusters; `applier add` adds others while it runs.",
            examples=["main"],
            extra={"check_name": check_name},
        ),
    ] = field(default_factory=dict)

    @property
    def seeds_directory(self) -> Path:
        """Where seeds are kept, of all instances."""
        return self.seeds.directory or self.directory / "seeds"

    @property
    def has_link(self) -> bool:
        """Whether any shipper may come by the link."""
        return any(instance.has_link for instance in self.instances.values())

    def is_attached(self, name: str) -> bool:
        """Whether the instance is read from the bucket."""
        return self.bucket is not None and self.instances[name].bucket is not False

    def listen_addresses_of(self, name: str) -> str:
        """listen_addresses of the instance's standby."""
        own = self.instances[name].listen_addresses
        return self.standby.listen_addresses if own is None else own

    def shared_buffers_mb_of(self, name: str) -> int:
        """shared_buffers of the instance's standby, in MB."""
        return self.instances[name].shared_buffers_mb or self.standby.shared_buffers_mb

    def parameters_of(self, name: str) -> dict[str, Parameter]:
        """Other settings of PostgreSQL for the instance's standby."""
        return {**self.standby.settings, **self.instances[name].settings}

    def contradictions(self) -> Iterator[Contradiction]:
        yield from self._shared("port", "port", {n: i.port for n, i in self.instances.items()})
        keys = {n: i.public_key for n, i in self.instances.items() if i.public_key}
        yield from self._shared("public_key", "public key", keys)
        files = {n: i.public_key_file for n, i in self.instances.items() if i.public_key_file}
        yield from self._shared("public_key_file", "public key", files)
        yield from self._without_a_road()
        yield from self._with_wrong_overrides()
        link_port = parse_tcp_endpoint(self.link.listen).port if self.has_link else 0
        for name, instance in self.instances.items():
            if instance.port == link_port:
                yield Contradiction(
                    ("instances", name, "port"),
                    f"instances.{name}.port is {link_port}, on which the link listens",
                    "give the standby another port",
                )

    def _without_a_road(self) -> Iterator[Contradiction]:
        for name, instance in self.instances.items():
            if instance.bucket and self.bucket is None:
                yield Contradiction(
                    ("instances", name, "bucket"),
                    f"instances.{name}.bucket is true, and there is no table [bucket]",
                    "add [bucket] with its url",
                )
            elif not instance.has_link and not self.is_attached(name):
                yield Contradiction(
                    ("instances", name, "public_key"),
                    f"instances.{name}: public_key and public_key_file are both missing, and it "
                    "is read from no bucket",
                    "give one of them, or a table [bucket]",
                )

    def _with_wrong_overrides(self) -> Iterator[Contradiction]:
        for name, instance in self.instances.items():
            if instance.overrides:
                # The rules are many modules, which no other settings need.
                from applier.compat import check_override_names

                try:
                    check_override_names(frozenset(instance.overrides))
                except UsageError as error:
                    key = ("instances", name, "overrides")
                    yield Contradiction(key, f"{'.'.join(key)}: {error.what}", error.hint)

    def _shared(
        self, key: str, noun: str, values: dict[str, int] | dict[str, str] | dict[str, Path]
    ) -> Iterator[Contradiction]:
        owners: defaultdict[object, list[str]] = defaultdict(list)
        for name, value in values.items():
            owners[value].append(name)
        for names in owners.values():
            for name in names[1:]:
                yield Contradiction(
                    ("instances", name, key),
                    f"instances.{name} and instances.{names[0]} have the same {noun}",
                    "each instance needs its own",
                )


def load_applier_settings(file: Path) -> ApplierSettings:
    """Read the applier's settings.  Raises SettingsError with everything that is wrong."""
    return load_settings(file, ApplierSettings)

"""Which cluster is this, and what does it look like.

`Incarnation` says whose WAL a byte is: an instance keeps its name over a major upgrade but
gets a new incarnation.  `Profile` is what the version check compares: what the shipper read
from its primary, or what the applier knows of an installation and data directory.
"""

from __future__ import annotations

import re

import msgspec

from logship.environment import Environment
from logship.errors import Code, UsageError

_INSTANCE_NAME = re.compile(r"\A[a-z][a-z0-9_-]{0,47}\Z")


def check_instance_name(name: str) -> str:
    """Return `name` if it may name an instance, else raise UsageError.

    Names become directory names, role names in the WAL server's startup packet and slot
    names, hence the narrow alphabet.
    """
    if _INSTANCE_NAME.match(name) is None:
        raise UsageError(
            Code.USAGE,
            f"{name!r} cannot name an instance",
            "use 1 to 48 of a-z, 0-9, '-' and '_', starting with a letter",
        )
    return name


class Incarnation(msgspec.Struct, frozen=True, order=True):
    """One physical cluster in an instance's life."""

    system_identifier: int
    major: int

    def __str__(self) -> str:
        return f"{self.system_identifier}-{self.major}"

    @classmethod
    def parse(cls, text: str) -> Incarnation:
        """Read the directory-name form, `7301234567890123456-17`.  Raises ValueError."""
        system_identifier, _, major = text.partition("-")
        return cls(int(system_identifier), int(major))


def parse_incarnation(text: str) -> Incarnation:
    """As an operator writes it.  Raises UsageError."""
    try:
        return Incarnation.parse(text)
    except ValueError:
        raise UsageError(
            Code.USAGE,
            f"{text!r} names no cluster",
            "write its system identifier and its major: 7301234567890123456-17",
        ) from None


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a PostgreSQL is, as far as replaying its WAL elsewhere depends on it.

    Sent by the shipper in the hello and again whenever it changes.  Fields with a default
    were added after protocol version 1 or can't always be read.
    """

    system_identifier: int
    server_version_num: int
    """As `server_version_num`: 170009 is 17.9."""
    catalog_version: int
    control_version: int
    block_size: int
    wal_block_size: int
    wal_segment_size: int
    """Bytes."""
    segment_size: int
    """Bytes of one relation file (`segment_size`), 1 GiB unless built otherwise."""
    data_checksums: bool
    architecture: str
    """As `platform.machine()` of the server: x86_64, aarch64.  "" if not known."""
    alignment: int = 8
    float8_by_value: bool = True
    max_connections: int = 100
    max_worker_processes: int = 8
    max_wal_senders: int = 10
    max_prepared_transactions: int = 0
    max_locks_per_transaction: int = 64
    track_commit_timestamp: bool = False
    wal_level: str = "replica"
    bootstrap_superuser: str = "postgres"
    """Name of the role with OID 10: the applier connects to the standby as this role."""
    data_directory: str = ""
    environment: Environment | None = None
    """None: a shipper that does not tell, or one that could not ask yet."""

    @property
    def major(self) -> int:
        return self.server_version_num // 10000

    @property
    def minor(self) -> int:
        return self.server_version_num % 10000

    @property
    def incarnation(self) -> Incarnation:
        return Incarnation(self.system_identifier, self.major)

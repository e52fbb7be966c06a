"""What would replay the WAL: an installed PostgreSQL and, after seeding, a data directory."""

from __future__ import annotations

import msgspec

from logship.identity import Profile
from logship.postgres.control_file import ControlFile


class DataDirectoryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a standby's own control file says (`global/pg_control` of its data directory)."""

    system_identifier: int
    wal_segment_size: int
    """Bytes."""
    data_checksums: bool

    @classmethod
    def of(cls, control: ControlFile) -> DataDirectoryFacts:
        return cls(
            system_identifier=control.system_identifier,
            wal_segment_size=control.wal_segment_size,
            data_checksums=control.data_checksum_version != 0,
        )


class StandbyProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The standby's side of the comparison.

    The fields of the installation come from a cluster that its own initdb made; those of the
    data directory are None until a seed is in place, and rules about them pass until then.
    """

    server_version_num: int
    """As `server_version_num`: 170009 is 17.9."""
    catalog_version: int
    control_version: int
    block_size: int
    wal_block_size: int
    segment_size: int
    """Bytes of one relation file."""
    alignment: int
    float8_by_value: bool
    architecture: str
    """As `platform.machine()`; "" if not known."""
    data_directory: DataDirectoryFacts | None = None

    @property
    def major(self) -> int:
        return self.server_version_num // 10000

    @property
    def minor(self) -> int:
        return self.server_version_num % 10000

    @classmethod
    def of(
        cls, installation: Profile, data_directory: DataDirectoryFacts | None = None
    ) -> StandbyProfile:
        """From the profile of what an installation's initdb makes.

        Only what is built into the programs is taken from it: its system identifier, WAL
        segment size and checksums are those of the cluster that the probe threw away.
        """
        return cls(
            server_version_num=installation.server_version_num,
            catalog_version=installation.catalog_version,
            control_version=installation.control_version,
            block_size=installation.block_size,
            wal_block_size=installation.wal_block_size,
            segment_size=installation.segment_size,
            alignment=installation.alignment,
            float8_by_value=installation.float8_by_value,
            architecture=installation.architecture,
            data_directory=data_directory,
        )

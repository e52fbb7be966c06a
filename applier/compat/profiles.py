"""What would replay the WAL: an installed PostgreSQL, the host that it runs on and, after
seeding, a data directory."""

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


class CollationVersion(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What the recovery server's library says of one locale that a primary orders text by."""

    provider: str
    """As `pg_collation.collprovider`: c (libc), i (ICU), b (builtin)."""
    locale: str
    """As the primary names it."""
    version: str
    """As `pg_collation_actual_version` says with this installation; "": the library tells none,
    which it does for C and POSIX."""


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What surrounds one installation on the recovery server.

    None, "" or nothing at all: not known, unless it says otherwise.  What is not known is not
    compared, and lifts no block.
    """

    operating_system: str = ""
    """As `logship.host.operating_system`."""
    libc: str = ""
    """As `logship.host.libc`: `glibc 2.36`."""
    icu: str | None = None
    """As `logship.host.icu_of` of the installation's `postgres`: `72`; "": built without ICU."""
    libraries: frozenset[str] | None = None
    """Names of the libraries in the installation's pkglibdir, without their ending: `hstore`."""
    extensions: dict[str, tuple[str, ...]] | None = None
    """Names of the extensions that can be created, each with the versions that are reachable,
    as `pg_available_extension_versions` lists them."""
    locales: frozenset[str] | None = None
    """Of libc, as `locale -a` lists them: `de_DE.utf8`."""
    collation_versions: tuple[CollationVersion, ...] = ()
    """Of the locales that were asked for; sorted."""

    def collation_version(self, provider: str, locale: str) -> str | None:
        """None: it was not asked for."""
        return next(
            (
                known.version
                for known in self.collation_versions
                if (known.provider, known.locale) == (provider, locale)
            ),
            None,
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
    host: HostFacts | None = None
    """None: the host was not looked at; rules about it pass, unless they blocked before."""
    preload_libraries: tuple[str, ...] = ()
    """What the standby's own configuration preloads, see `logship.environment.library_list`."""
    no_private_paths: str | None = None
    """Why its server can't see directories of its own at the primary's paths; "": it can.  None:
    nobody asked."""

    @property
    def major(self) -> int:
        return self.server_version_num // 10000

    @property
    def minor(self) -> int:
        return self.server_version_num % 10000

    @classmethod
    def of(
        cls,
        installation: Profile,
        data_directory: DataDirectoryFacts | None = None,
        *,
        host: HostFacts | None = None,
        preload_libraries: tuple[str, ...] = (),
        no_private_paths: str | None = None,
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
            host=host,
            preload_libraries=preload_libraries,
            no_private_paths=no_private_paths,
        )

"""What surrounds a PostgreSQL, as far as replaying its WAL elsewhere depends on it.

Part of `logship.identity.Profile`: read from the primary by its shipper, and compared by the
version check with what the recovery server has.  Only what matters is in it: collations that
something uses, extensions that have libraries, resource managers that are not PostgreSQL's own.
"""

from __future__ import annotations

import re

import msgspec

_NAME = re.compile(r'"((?:[^"]|"")*)"|([^",]+)')

THE_CATALOGS = "the system catalogs"
THE_PRELOADED = "shared_preload_libraries"
"""What may be unread of the whole cluster, as `Environment.unread` names it."""


class CollationFacts(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A collation that some index, column or constraint of its database uses."""

    name: str
    """As SQL writes it, with its schema unless that is pg_catalog: `"de-x-icu"`,
    `public.german`."""
    provider: str
    """As `pg_collation.collprovider`: c (libc), i (ICU), b (builtin)."""
    locale: str
    recorded_version: str
    """As the catalog says that indexes were built with; "": none is recorded."""
    actual_version: str
    """As `pg_collation_actual_version` says on the primary; "": the library tells none."""


class ExtensionFacts(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """An extension that is installed in a database."""

    name: str
    version: str
    libraries: tuple[str, ...] = ()
    """Of its functions, as `pg_proc.probin` has them: `$libdir/hstore`; sorted, without
    repetitions.  Empty: it is SQL alone."""


class DatabaseFacts(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One database that can be connected to.  A template that nobody enters has no `collations`
    and no `extensions`."""

    name: str
    encoding: str
    provider: str
    """Of its default collation: c (libc), i (ICU), b (builtin)."""
    collate: str
    """The locale that text is ordered by: `datlocale`, `daticulocale` or `datcollate`."""
    ctype: str
    recorded_version: str
    actual_version: str
    collations: tuple[CollationFacts, ...] = ()
    extensions: tuple[ExtensionFacts, ...] = ()


class TablespaceFacts(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A tablespace outside the data directory."""

    oid: int
    name: str
    location: str


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Of a primary.  Lists are sorted, so that equal environments are equal."""

    operating_system: str = ""
    """As `logship.host.operating_system`, if the shipper runs on the primary's host."""
    libc: str = ""
    """As `logship.host.libc`; "" if not known."""
    icu: str = ""
    """As `logship.host.icu_of` the server's program; "" if not known or none."""
    preload_libraries: tuple[str, ...] = ()
    """Of shared_preload_libraries, in their order."""
    resource_managers: tuple[tuple[int, str], ...] = ()
    """Custom WAL resource managers (id, name), ids from 128 on; 15 and later."""
    databases: tuple[DatabaseFacts, ...] = ()
    tablespaces: tuple[TablespaceFacts, ...] = ()
    is_complete: bool = True
    """False: something could not be read (a role without rights, a database that refuses)."""
    unread: tuple[str, ...] = ()
    """What that is, in words: `database orders`."""

    @property
    def tells_of_cluster(self) -> bool:
        """Whether the catalogs were read, and so the resource managers: none are named, there
        are none."""
        return self.is_complete or (bool(self.unread) and THE_CATALOGS not in self.unread)

    @property
    def tells_preloaded(self) -> bool:
        """Whether `preload_libraries` are all that there are."""
        return self.tells_of_cluster and THE_PRELOADED not in self.unread

    @property
    def tells_of_databases(self) -> bool:
        """Whether `databases` are all that there are, with all that is in them."""
        return self.tells_of_cluster and set(self.unread) <= {THE_PRELOADED}


def library_list(text: str) -> tuple[str, ...]:
    """The names in a value of `shared_preload_libraries`, in their order, as they are written.

    As `SplitDirectoriesString` of PostgreSQL reads it: names are separated by commas, and may
    stand in double quotes.
    """
    names = (quoted.replace('""', '"') or bare.strip() for quoted, bare in _NAME.findall(text))
    return tuple(name for name in names if name)


def library_name(path: str) -> str:
    """A library by the name of its file: `$libdir/hstore` and `hstore.so` are `hstore`."""
    return path.rpartition("/")[2].removesuffix(".so")

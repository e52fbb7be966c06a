"""The questions about what surrounds a primary, each one statement that answers in JSON.

Columns came and went between majors (`colliculocale`, `colllocale`): they are taken out of the
row as JSON, where a missing one is null.  Functions that a major lacks are left out.
"""

from __future__ import annotations

import msgspec

from logship.decoders import convert
from logship.environment import (
    CollationFacts,
    DatabaseFacts,
    ExtensionFacts,
    TablespaceFacts,
    library_list,
)

_MAX_DATABASES = 500
"""More are not looked into: each takes a connection."""
_MAX_OBJECTS = 500
"""Of one kind in one database."""
_MAX_TABLESPACES = 100


class ListedDatabase(msgspec.Struct, frozen=True, kw_only=True):
    """A row of pg_database, without what is inside."""

    name: str
    is_template: bool
    encoding: str
    provider: str
    collate: str
    ctype: str
    recorded_version: str
    actual_version: str

    def facts(self, inside: Inside | None) -> DatabaseFacts:
        return DatabaseFacts(
            name=self.name,
            encoding=self.encoding,
            provider=self.provider,
            collate=self.collate,
            ctype=self.ctype,
            recorded_version=self.recorded_version,
            actual_version=self.actual_version,
            collations=inside.collations if inside is not None else (),
            extensions=inside.extensions if inside is not None else (),
        )


class ClusterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection, to any database, can tell of the whole cluster."""

    databases: tuple[ListedDatabase, ...]
    database_count: int
    """Also of those that are not listed, being too many."""
    tablespaces: tuple[TablespaceFacts, ...]
    preload_libraries: str | None
    """As the setting is written; None: the role may not see it."""
    resource_managers: tuple[tuple[int, str], ...]
    libc_version: str
    """As PostgreSQL says of some locale that has one; "": of none here."""
    version: str
    """As `version()` says."""

    @property
    def preloads(self) -> tuple[str, ...]:
        return library_list(self.preload_libraries or "")

    @property
    def libc(self) -> str:
        # PostgreSQL tells a version of glibc, and of libc on FreeBSD and Windows.
        if "-linux-gnu" in self.version and self.libc_version:
            return f"glibc {self.libc_version}"
        return ""


class Inside(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection to one database tells of it."""

    collations: tuple[CollationFacts, ...]
    extensions: tuple[ExtensionFacts, ...]


def read_cluster(answer: object) -> ClusterFacts:
    return convert(answer, ClusterFacts)


def read_inside(answer: object) -> Inside:
    """Sorted, so that a server that did not change never answers otherwise."""
    inside = convert(answer, Inside)
    extensions = (
        msgspec.structs.replace(found, libraries=tuple(sorted(found.libraries)))
        for found in inside.extensions
    )
    return Inside(collations=tuple(sorted(inside.collations)), extensions=tuple(sorted(extensions)))


_CLUSTER = """
with listed as (
    select d.*, pg_catalog.to_jsonb(d) as fields
      from pg_catalog.pg_database d
     where d.datallowconn
     order by d.datname limit {max_databases}),
libc as (
    select pg_catalog.pg_collation_actual_version(c.oid) as version
      from pg_catalog.pg_collation c
     where c.collprovider = 'c' and c.collcollate !~* '^(C|POSIX|C[.].*)$' limit 1)
select pg_catalog.jsonb_build_object(
    'databases', coalesce((
        select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'name', d.datname,
            'is_template', d.datistemplate,
            'encoding', pg_catalog.pg_encoding_to_char(d.encoding),
            'provider', coalesce(d.fields->>'datlocprovider', 'c'),
            'collate', coalesce(d.fields->>'datlocale', d.fields->>'daticulocale',
                                d.fields->>'datcollate'),
            'ctype', d.datctype,
            'recorded_version', coalesce(d.fields->>'datcollversion', ''),
            'actual_version', coalesce({actual_version}, '')) order by d.datname)
          from listed d), '[]'),
    'database_count', (
        select pg_catalog.count(*) from pg_catalog.pg_database d where d.datallowconn),
    'tablespaces', coalesce((
        select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'oid', t.oid::bigint,
            'name', t.spcname,
            'location', pg_catalog.pg_tablespace_location(t.oid)) order by t.oid)
          from (
            select t.* from pg_catalog.pg_tablespace t
             where pg_catalog.left(pg_catalog.pg_tablespace_location(t.oid), 1) = '/'
             order by t.oid limit {max_tablespaces}) t), '[]'),
    'preload_libraries', (
        select s.setting from pg_catalog.pg_settings s
         where s.name = 'shared_preload_libraries'),
    'resource_managers', {resource_managers},
    'libc_version', coalesce((select l.version from libc l), ''),
    'version', pg_catalog.version())
"""

_RESOURCE_MANAGERS = """
    coalesce((
        select pg_catalog.jsonb_agg(
            pg_catalog.jsonb_build_array(m.rm_id, m.rm_name) order by m.rm_id)
          from pg_catalog.pg_get_wal_resource_managers() m where not m.rm_builtin), '[]')
"""

# 14 records no version for a database.
_ACTUAL_VERSION_OF_14 = """
    case when d.datcollate !~* '^(C|POSIX|C[.].*)$' then (select l.version from libc l) end
"""

# What depends on a collation is in pg_depend, but for those that initdb pins ("unicode").
_INSIDE = """
with used as (
    select d.refobjid as oid from pg_catalog.pg_depend d
     where d.refclassid = 'pg_catalog.pg_collation'::pg_catalog.regclass
    union
    select pg_catalog.unnest(i.indcollation) from pg_catalog.pg_index i),
collations as (
    select c.*, n.nspname, pg_catalog.to_jsonb(c) as fields
      from used u
      join pg_catalog.pg_collation c on c.oid = u.oid
      join pg_catalog.pg_namespace n on n.oid = c.collnamespace
     where c.collprovider in ('c', 'i', 'b')
       and (c.collprovider <> 'c' or c.collcollate !~* '^(C|POSIX)$')
     order by n.nspname, c.collname, c.oid limit {max_objects}),
extensions as (
    select e.extname, e.extversion,
           coalesce(pg_catalog.array_agg(distinct p.probin) filter (where p.probin is not null),
                    '{{}}') as libraries
      from pg_catalog.pg_extension e
      left join pg_catalog.pg_depend d
        on d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
       and d.refobjid = e.oid and d.deptype = 'e'
       and d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
      left join pg_catalog.pg_proc p on p.oid = d.objid
     group by e.extname, e.extversion
     order by e.extname limit {max_objects})
select pg_catalog.jsonb_build_object(
    'collations', coalesce((
        select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'name', case when c.nspname = 'pg_catalog' then ''
                         else pg_catalog.quote_ident(c.nspname) || '.' end
                    || pg_catalog.quote_ident(c.collname),
            'provider', c.collprovider,
            'locale', coalesce(c.fields->>'colllocale', c.fields->>'colliculocale',
                               c.fields->>'collcollate', ''),
            'recorded_version', coalesce(c.collversion, ''),
            'actual_version',
            coalesce(pg_catalog.pg_collation_actual_version(c.oid), '')))
          from collations c), '[]'),
    'extensions', coalesce((
        select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'name', e.extname, 'version', e.extversion, 'libraries', e.libraries))
          from extensions e), '[]'))
"""

INSIDE_SQL = _INSIDE.format(max_objects=_MAX_OBJECTS)


def cluster_sql(major: int) -> str:
    """The question that `read_cluster` reads the answer to."""
    return _CLUSTER.format(
        max_databases=_MAX_DATABASES,
        max_tablespaces=_MAX_TABLESPACES,
        actual_version="pg_catalog.pg_database_collation_actual_version(d.oid)"
        if major >= 15
        else _ACTUAL_VERSION_OF_14,
        resource_managers=_RESOURCE_MANAGERS if major >= 15 else "'[]'::jsonb",
    )

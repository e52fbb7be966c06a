"""Profiles as a shipper's hello brings them: what the applier makes of any of them.

Input: a profile in MessagePack.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

import msgspec

from applier.compat import (
    RULES,
    CollationVersion,
    DataDirectoryFacts,
    HostFacts,
    StandbyProfile,
    check,
    mending_statements,
)
from logship.environment import (
    CollationFacts,
    DatabaseFacts,
    Environment,
    ExtensionFacts,
)
from logship.identity import Incarnation, Profile
from logship.profile_document import profile_document, read_profile_document
from tests.fuzz.mutation import mutate_document
from tests.fuzz.target import MutateBytes
from tests.support.link_frames import profile

SHORT_RUNS = 4000
OURS = StandbyProfile.of(
    profile(),
    DataDirectoryFacts(
        system_identifier=profile().system_identifier,
        wal_segment_size=1 << 24,
        data_checksums=True,
    ),
    host=HostFacts(
        libc="glibc 2.36",
        icu="",
        libraries=frozenset({"hstore"}),
        extensions={"hstore": ("1.8",)},
        locales=frozenset({"C"}),
        collation_versions=(CollationVersion(provider="i", locale="de", version="1"),),
    ),
)
GERMAN = CollationFacts(
    name="german", provider="i", locale="de", recorded_version="2", actual_version="3"
)
SURROUNDED = Environment(
    libc="glibc 2.31",
    icu="67",
    preload_libraries=("pg_cron",),
    resource_managers=((128, "own"),),
    databases=(
        DatabaseFacts(
            name="orders",
            encoding="UTF8",
            provider="c",
            collate="de_DE.UTF-8",
            ctype="de_DE.UTF-8",
            recorded_version="2.31",
            actual_version="2.31",
            collations=(GERMAN,),
            extensions=(ExtensionFacts(name="hstore", version="1.7", libraries=("$libdir/h",)),),
        ),
    ),
    is_complete=False,
    unread=("database crm",),
)


def run(data: bytes) -> bool:
    try:
        found = msgspec.msgpack.decode(data, type=Profile)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    document = json.loads(json.dumps(profile_document(found)))
    assert read_profile_document(document) == found
    mending_statements(found.environment, OURS.host)
    for standby in (OURS, StandbyProfile.of(found)):
        for expected in (None, profile().incarnation, found.incarnation):
            verdict = check(found, standby, expected)
            assert [each.rule for each in verdict.findings] == [rule.name for rule in RULES]
            assert all(each.rule and each.primary is not None for each in verdict.findings)
            assert check(found, standby, expected, lacked=verdict.lacking) == verdict
            untold = msgspec.structs.replace(found, environment=None)
            again = check(untold, standby, expected, lacked=verdict.lacking)
            assert again.lacking == verdict.lacking, "who says less is not let go"
    if found.server_version_num >= 0 <= found.system_identifier:
        assert Incarnation.parse(str(found.incarnation)) == found.incarnation
    return True


def seeds() -> Iterator[bytes]:
    yield msgspec.msgpack.encode(profile(environment=SURROUNDED))
    for changes in ({}, {"server_version_num": 140024}, {"architecture": "aarch64"}):
        yield msgspec.msgpack.encode(profile(**changes))


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    try:
        return msgspec.msgpack.encode(mutate_document(msgspec.msgpack.decode(data), random))
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        return other(data, max_bytes)

"""What a person is shown of a primary's profile."""

from __future__ import annotations

from logship.environment import DatabaseFacts, Environment, TablespaceFacts
from shipper.commands.profile_view import render_profile
from tests.support.link_frames import profile


def test_facts_and_databases_are_shown() -> None:
    database = DatabaseFacts(
        name="app",
        encoding="UTF8",
        provider="i",
        collate="de",
        ctype="de",
        recorded_version="1",
        actual_version="153.121",
    )
    shown = render_profile(
        profile(
            environment=Environment(
                libc="glibc 2.36",
                preload_libraries=("auto_explain", "pg_stat_statements"),
                resource_managers=((128, "test"),),
                tablespaces=(TablespaceFacts(oid=7, name="fast", location="/fast"),),
                databases=(database,),
                is_complete=False,
                unread=("database other",),
            )
        )
    ).splitlines()
    assert shown[0] == "PostgreSQL           17.9, x86_64"
    assert all(len(line) <= 100 for line in shown)
    for line in (
        "libc                 glibc 2.36",
        "ICU                  not known",
        "preloaded libraries  auto_explain, pg_stat_statements",
        "resource managers    test (128)",
        "tablespaces          fast in /fast",
        "not read             database other",
    ):
        assert line in shown
    assert shown[-2:] == [
        "database  encoding  order of text   collations in use  extensions",
        "app       UTF8      icu de 153.121  -                  -",
    ]


def test_a_profile_without_surroundings_says_so() -> None:
    assert "not read             anything of what surrounds it" in render_profile(profile())

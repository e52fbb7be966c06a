"""Versions of collations, put together from what PostgreSQL and the C library say."""

from __future__ import annotations

from applier.compat import CollationVersion
from applier.standby.host_facts import versions_of

GERMAN, SWEDISH = ("c", "de_DE.utf8"), ("i", "sv")


def test_a_libc_locale_has_the_library_s_version_and_an_icu_one_its_own() -> None:
    assert versions_of([SWEDISH, GERMAN], "glibc 2.36", {SWEDISH: "153.80"}) == (
        CollationVersion(provider="c", locale="de_DE.utf8", version="2.36"),
        CollationVersion(provider="i", locale="sv", version="153.80"),
    )


def test_what_is_not_known_is_left_out() -> None:
    assert versions_of([SWEDISH, GERMAN], "", {}) == ()


def test_what_postgresql_says_counts() -> None:
    (one,) = versions_of([GERMAN], "glibc 2.36", {GERMAN: "2.99"})
    assert one.version == "2.99"

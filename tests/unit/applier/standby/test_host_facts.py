"""Versions of collations, put together from what PostgreSQL and the C library say."""

from __future__ import annotations

from pathlib import Path

from applier.compat import CollationVersion, HostFacts
from applier.standby.host_facts import Learnt, versions_of
from applier.standby.surroundings import MORE_PER_HOUR, Surroundings, _Known
from logship.postgres.run_as import RunAs

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


def test_no_shipper_has_more_asked_than_ten_times_an_hour(tmp_path: Path) -> None:
    """Each time a cluster is made, which takes a second of a processor that all share."""
    surroundings = Surroundings(RunAs.of(None), tmp_path)
    learnt = Learnt(HostFacts(icu="72"), {("i", "sv"): "153.80"}, ())
    known = _Known("", learnt, frozenset({"de-u-co-phonebk"}))

    def may_ask(*locales: str) -> bool:
        return surroundings._may_ask_more(known, frozenset(locales))

    assert not may_ask("sv", "de-u-co-phonebk"), "both are known"
    asked = [may_ask(f"und-x-{number}") for number in range(MORE_PER_HOUR + 1)]
    assert asked == [True] * MORE_PER_HOUR + [False]
    without = known._replace(learnt=Learnt(HostFacts(icu=""), {}, ()))
    assert not Surroundings(RunAs.of(None), tmp_path)._may_ask_more(without, frozenset({"x"}))

"""The fleet as a table: worst first, fitted to the terminal, nothing invented."""

from __future__ import annotations

import re
from typing import Any

import pytest

from logship.status_table import summary, table_lines
from logship.status_view import render_detail
from logship.status_words import printable, transfer_gap
from logship.terminal import Line, Tone
from tests.unit.logship.test_status_view import FOLLOWING, NOW, UNKNOWN_STATUS

ALARM = {"code": "slot-lost", "what": "The slot is gone.", "hint": "Seed again."}
SEEDING = {
    **FOLLOWING,
    "name": "orders",
    "phase": "seeding",
    "seed": {
        "running": True,
        "bytes_done": 512 << 20,
        "bytes_estimated": 1 << 30,
        "bytes_per_second": 64 << 20,
        "seconds_left": 8.0,
    },
}


def table(documents: list[dict[str, Any]], width: int | None = None) -> str:
    return "\n".join(line.text for line in table_lines(documents, NOW, width))


def cells(line: str) -> list[str]:
    return re.split(r" {2,}", line)


def row(document: dict[str, Any]) -> dict[str, str]:
    header, shown = table([document]).splitlines()[:2]
    return dict(zip(cells(header), cells(shown), strict=True))


def test_what_is_not_known_is_a_question_mark() -> None:
    shown = row(UNKNOWN_STATUS)
    for column in ("FLUSHED", "DURABLE", "TRANSFER GAP", "APPLY GAP", "STANDBY", "CHECK", "ROOM"):
        assert shown[column] == "?"


def test_a_document_of_an_older_applier_can_be_shown() -> None:
    assert cells(table([{"name": "main"}]).splitlines()[1])[0] == "main"


def test_an_instance_that_follows_is_one_line() -> None:
    assert row(FOLLOWING) == {
        "NAME": "main",
        "PHASE": "following",
        "LINK": "connected 3 min",
        "PROTECTION": "sync",
        "FLUSHED": "0/3000060",
        "DURABLE": "0/3000000",
        "TRANSFER GAP": "96 B, 0.1 s",
        "APPLY GAP": "1.0 kB, 2.5 s",
        "STANDBY": "running",
        "CHECK": "pass",
        "ROOM": "5.0 GB",
        "LAST DRILL": "never",
        "ALARMS": "-",
    }


def test_the_last_drill_says_when_and_how_it_ended() -> None:
    passed = {
        "at": NOW - 3 * 3600,
        "passed": True,
        "seconds": 41.2,
        "timeline": 1,
        "lsn": "0/5000060",
        "last_commit_time": NOW - 3 * 3600 - 4,
        "error": None,
    }
    document = {**FOLLOWING, "last_drill": passed}
    assert row(document)["LAST DRILL"] == "3 h 0 min ago"
    detail = (
        "last drill:     3 h 0 min ago: open in 41 s, at 1:0/5000060, the last commit 4.0 s before "
        "it began"
    )
    assert re.sub(" +", " ", detail) in re.sub(" +", " ", render_detail(document, NOW))
    nothing_more = {"seconds": None, "timeline": None, "lsn": None, "last_commit_time": None}
    failed = {**FOLLOWING, "last_drill": {**passed, "passed": False, **nothing_more}}
    assert row(failed)["LAST DRILL"] == "failed 3 h 0 min ago"
    assert re.search(
        r"^last drill: +failed 3 h 0 min ago$", render_detail(failed, NOW), re.MULTILINE
    )


def test_a_drill_that_an_applier_says_nothing_of_is_not_known() -> None:
    older = {name: value for name, value in FOLLOWING.items() if name != "last_drill"}
    for document in (older, {**FOLLOWING, "last_drill": {"of": "a later version"}}):
        assert row(document)["LAST DRILL"] == "?"
        assert re.search(r"^last drill: +[?]$", render_detail(document, NOW), re.MULTILINE)
    assert re.search(r"^last drill: +never$", render_detail(FOLLOWING, NOW), re.MULTILINE)


def test_protection_that_is_not_in_effect_is_told_apart() -> None:
    document = {**FOLLOWING, "protection": {"configured": "sync", "in_effect": "unknown"}}
    assert row(document)["PROTECTION"] == "sync, in effect ?"


@pytest.mark.parametrize(
    ("gap", "shown"),
    [
        ({"bytes": 0, "seconds": 0.0}, "0 B, 0.0 s"),
        ({"bytes": 0, "seconds": None}, "0 B"),
        ({"bytes": 2048, "seconds": None}, "2.0 kB, ?"),
        ({"bytes": None, "seconds": None}, "?"),
        ({"bytes": 0}, "0 B"),
    ],
)
def test_apply_gaps(gap: dict[str, Any], shown: str) -> None:
    assert row({**FOLLOWING, "apply_gap": gap})["APPLY GAP"] == shown


def test_the_version_check_says_how_many_rules_warn_or_block() -> None:
    findings = [{"verdict": verdict} for verdict in ("pass", "warn", "warn", "block")]
    for verdict, shown in (("pass", "pass"), ("warn", "warn 2"), ("block", "block 1")):
        compat = {"verdict": verdict, "findings": findings}
        assert row({**FOLLOWING, "compat": compat})["CHECK"] == shown


def test_a_spill_is_seen_in_the_link_while_it_lasts() -> None:
    road = {"name": "bucket", "role": "spill", "state": "spilling"}
    assert ", spilling" in row({**FOLLOWING, "other_roads": [road]})["LINK"]
    idle = {**road, "state": "idle"}
    assert ", spilling" not in row({**FOLLOWING, "other_roads": [idle]})["LINK"]


def test_a_primary_that_its_shipper_cannot_reach_is_seen_in_the_link() -> None:
    away = {**FOLLOWING, "primary": {**FOLLOWING["primary"], "reachable": False}}
    assert row(away)["LINK"] == "connected 3 min, primary away"


def test_by_a_bucket_alone_the_gap_is_of_the_moment_that_was_last_heard_of() -> None:
    by_bucket = {
        **FOLLOWING,
        "link": {"state": "bucket", "since": NOW - 200},
        "primary": {**FOLLOWING["primary"], "heard_at": NOW - 900},
        "transfer_gap": {"bytes": 0, "seconds": 0.0},
    }
    assert row(by_bucket)["TRANSFER GAP"] == "0 B, 15 min ago"


def test_the_worst_is_first_and_its_tone_says_so() -> None:
    documents = [
        {**FOLLOWING, "name": "a"},
        {**FOLLOWING, "name": "b", "phase": "promoted"},
        {**FOLLOWING, "name": "c", "phase": "blocked", "alarms": [ALARM]},
        {**SEEDING, "name": "d"},
    ]
    heading, *rows = table_lines(documents, NOW)[:5]
    assert heading.tone is Tone.HEADING
    assert [(line.text[0], line.tone) for line in rows] == [
        ("c", Tone.BAD),
        ("d", Tone.WARNING),
        ("a", Tone.PLAIN),
        ("b", Tone.FAINT),
    ]


def test_alarms_stand_below_with_their_hints() -> None:
    shown = table([{**FOLLOWING, "alarms": [ALARM]}])
    assert "\n\nmain: The slot is gone. [slot-lost]\n  hint: Seed again." in shown


def test_a_seed_has_a_bar_its_rate_and_the_time_left() -> None:
    shown = table([FOLLOWING, SEEDING])
    assert "seeding 50%" in shown
    line = shown.splitlines()[-1]
    assert re.fullmatch(
        r"orders  \[#{15}-{15}\]  50%  512\.0 MB of about 1\.0 GB, 64\.0 MB/s, 8\.0 s left", line
    )
    barely_begun = {"running": True, "bytes_done": 7, "bytes_estimated": None}
    assert table([{**SEEDING, "seed": barely_begun}]).endswith("orders  7 B of about ?")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160])
def test_a_narrow_terminal_gets_fewer_columns_and_never_a_broken_line(width: int) -> None:
    long_name = "a-name-that-is-as-long-as-names-may-be-and-then-some-more-of-it"
    for documents in ([FOLLOWING, SEEDING], [{**FOLLOWING, "name": long_name}]):
        header, *rows = table(documents, width).splitlines()[: len(documents) + 1]
        assert all(len(line) <= width for line in (header, *rows))
        assert {"NAME", "PHASE", "TRANSFER"} <= set(header.split()) or width < 60
    assert table([FOLLOWING], 200) == table([FOLLOWING])


def test_a_column_that_says_where_is_left_out_before_one_that_says_how_well() -> None:
    header = table([FOLLOWING], 110).splitlines()[0]
    assert "DURABLE" not in header
    assert "APPLY GAP" in header and "CHECK" in header


def test_no_instances_are_said() -> None:
    assert table([]) == "no instances"


def test_the_summary_counts_what_needs_a_person() -> None:
    lost = {**FOLLOWING, "link": {"state": "lost", "since": NOW}}
    # What the primary has done since it was last heard is not known, so nobody says 0.0 s.
    away = {**FOLLOWING, "primary": {"reachable": False, "heard_at": NOW - 30}}
    for cut_off in ({**away, **lost, "primary": away["primary"]}, away):
        assert transfer_gap(cut_off, NOW).endswith(", 30 s ago")
    assert summary([FOLLOWING]) == "1 instance, none needs attention"
    assert summary([FOLLOWING, lost]) == "2 instances, 1 needs attention"
    assert summary([lost, FOLLOWING, lost]) == "3 instances, 2 need attention"


def test_what_a_peer_says_can_neither_draw_nor_forge_lines() -> None:
    said = "gone\x1b[2J\nother  following\x9b1m\u2028end"
    document = printable({**FOLLOWING, "alarms": [{**ALARM, "what": said}], "b": [True, None, 1]})
    assert document["alarms"][0]["what"] == "gone?[2J?other  following?1m?end"
    assert (document["b"], document["name"]) == ([True, None, 1], FOLLOWING["name"])
    for text in (render_detail(document, NOW), text_of(table_lines([document], NOW))):
        assert all(each.isprintable() for each in text.splitlines())


def text_of(lines: list[Line]) -> str:
    return "\n".join(line.text for line in lines)

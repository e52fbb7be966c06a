"""Status as text: what is not known is never shown as a number."""

from __future__ import annotations

import re
from typing import Any

import pytest

from logship.status_view import duration, render_detail, render_table, size

NOW = 1_000_000.0

UNKNOWN_STATUS: dict[str, Any] = {
    "name": "main",
    "phase": "waiting",
    "link": {"state": "never", "since": None},
    "incarnation": None,
    "protection": {"configured": None, "in_effect": "unknown"},
    "primary": {
        "flush_lsn": None,
        "timeline": None,
        "heard_at": None,
        "reachable": None,
        "slot_wal_status": None,
    },
    "store": {"start": None, "written": None, "durable": None},
    "standby": {
        "state": None,
        "version": None,
        "port": None,
        "flush_lsn": None,
        "replay_lsn": None,
        "last_error": None,
    },
    "transfer_gap": {"bytes": None, "seconds": None},
    "apply_gap": {"bytes": None},
    "seed": None,
    "gap": None,
    "compat": None,
    "promotion": None,
    "alarms": [],
}

FOLLOWING: dict[str, Any] = {
    **UNKNOWN_STATUS,
    "phase": "following",
    "link": {"state": "connected", "since": NOW - 200},
    "incarnation": {"system_identifier": "7301234567890123456", "major": 17},
    "protection": {"configured": "sync", "in_effect": "sync"},
    "primary": {
        "flush_lsn": "0/3000060",
        "timeline": 1,
        "heard_at": NOW - 0.5,
        "reachable": True,
        "slot_wal_status": "reserved",
    },
    "store": {"start": "0/2000000", "written": "0/3000060", "durable": "0/3000000"},
    "standby": {
        "state": "running",
        "version": "17.10",
        "port": 5433,
        "flush_lsn": "0/3000060",
        "replay_lsn": "0/3000000",
        "last_error": None,
    },
    "transfer_gap": {"bytes": 96, "seconds": 0.1},
    "apply_gap": {"bytes": 0},
}


def cells(line: str) -> list[str]:
    return re.split(r" {2,}", line)


def test_what_is_not_known_is_a_question_mark() -> None:
    header, row = render_table([UNKNOWN_STATUS], NOW).splitlines()
    shown = dict(zip(cells(header), cells(row), strict=True))
    for column in ("FLUSHED", "DURABLE", "TRANSFER GAP", "APPLY GAP", "STANDBY"):
        assert shown[column] == "?"
    detail = render_detail(UNKNOWN_STATUS, NOW)
    assert not re.search(r"\b0\b", detail)
    assert re.search(r"^primary reachable: +\?$", detail, re.MULTILINE)


def test_a_document_of_an_older_applier_can_be_shown() -> None:
    assert cells(render_table([{"name": "main"}], NOW).splitlines()[1])[0] == "main"
    assert "instance:" in render_detail({"name": "main"}, NOW)


def test_an_instance_that_follows_is_one_line() -> None:
    header, row = render_table([FOLLOWING], NOW).splitlines()
    assert dict(zip(cells(header), cells(row), strict=True)) == {
        "NAME": "main",
        "PHASE": "following",
        "LINK": "connected 3 min",
        "PROTECTION": "sync",
        "FLUSHED": "0/3000060",
        "DURABLE": "0/3000000",
        "TRANSFER GAP": "96 B, 0.1 s",
        "APPLY GAP": "0 B",
        "STANDBY": "running",
        "ALARMS": "-",
    }


def test_everything_of_one_instance_is_shown() -> None:
    detail = render_detail(FOLLOWING, NOW)
    for part in (
        "PostgreSQL 17, system identifier 7301234567890123456",
        "flushed 0/3000060 on timeline 1, heard 0.5 s ago",
        "from 0/2000000, written 0/3000060, durable 0/3000000",
        "running, PostgreSQL 17.10, port 5433",
        "flushed 0/3000060, replayed 0/3000000",
    ):
        assert part in detail


def test_protection_that_is_not_in_effect_is_told_apart() -> None:
    document = {**FOLLOWING, "protection": {"configured": "sync", "in_effect": "unknown"}}
    assert "sync, in effect ?" in render_table([document], NOW)


def test_alarms_findings_gaps_and_seeds_are_shown_with_their_hints() -> None:
    document = {
        **FOLLOWING,
        "phase": "seeding",
        "seed": {"running": True, "bytes_done": 512 << 20, "bytes_estimated": 1 << 30},
        "gap": {"from_lsn": "0/1", "available_lsn": None, "code": "x", "what": "slot dropped"},
        "compat": {
            "verdict": "block",
            "findings": [
                {"rule": "minor", "verdict": "block", "what": "too old", "hint": "upgrade"},
                {"rule": "major", "verdict": "pass", "what": "the same", "hint": ""},
            ],
        },
        "promotion": {
            "opened_timeline": 2,
            "opened_lsn": "0/5",
            "lost": "not known: never heard",
        },
        "alarms": [{"code": "slot-lost", "what": "The slot is gone.", "hint": "Seed again."}],
    }
    table, detail = render_table([document], NOW), render_detail(document, NOW)
    assert "seeding 50%" in table
    assert "main: The slot is gone. [slot-lost]\n  hint: Seed again." in table
    assert "512.0 MB of about 1.0 GB" in detail
    assert "WAL from 0/1 to ? is lost to the store: slot dropped" in detail
    assert "block minor: too old\n    hint: upgrade" in detail
    assert "the same" not in detail
    assert "opened on timeline 2 at 0/5" in detail
    assert "not known: never heard" in detail


def test_what_becomes_of_the_wal_elsewhere_is_shown() -> None:
    hole = {"from_lsn": "0/1", "available_lsn": "0/9", "code": "wal-in-bucket", "what": "spilled"}
    bucket = {
        "name": "bucket",
        "role": "spill",
        "state": "spilling",
        "durable": "0/9",
        "since_lsn": "0/1",
        "available_lsn": None,
        "what": None,
    }
    document = {**FOLLOWING, "gap": {**hole, "filling": True}, "other_roads": [bucket]}
    assert ", spilling" in render_table([document], NOW)
    detail = render_detail(document, NOW)
    assert "WAL from 0/1 to 0/9 is missing, and looked for in the bucket: spilled" in detail
    assert "also to bucket:" in detail
    assert "spilling from 0/1 on (spill), durable 0/9" in detail
    refused = {**bucket, "role": "required", "state": "refused", "what": "another one writes"}
    behind = {**bucket, "state": "gap", "available_lsn": "0/5", "since_lsn": "0/2"}
    detail = render_detail({**FOLLOWING, "other_roads": [refused, behind]}, NOW)
    assert "refused (required), durable 0/9: another one writes" in detail
    assert "WAL from 0/2 to 0/5 is missing there" in detail
    assert ", spilling" not in render_table([{**FOLLOWING, "other_roads": [refused]}], NOW)


def test_no_instances_are_said() -> None:
    assert render_table([], NOW) == "no instances"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "?"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 kB"),
        (16 << 20, "16.0 MB"),
        (3 << 50, "3072.0 TB"),
    ],
)
def test_sizes(value: int | None, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "?"),
        (-0.2, "0.0 s"),
        (0.44, "0.4 s"),
        (12.3, "12 s"),
        (185, "3 min"),
        (7500, "2 h 5 min"),
        (360_000, "4 d 4 h"),
    ],
)
def test_durations(value: float | None, text: str) -> None:
    assert duration(value) == text


def test_by_a_bucket_alone_the_gap_is_of_the_moment_that_was_last_heard_of() -> None:
    by_bucket = {
        **FOLLOWING,
        "link": {"state": "bucket", "since": NOW - 200},
        "primary": {**FOLLOWING["primary"], "heard_at": NOW - 900},
        "transfer_gap": {"bytes": 0, "seconds": 0.0},
    }
    assert "0 B, 15 min ago" in render_table([by_bucket], now=NOW)
    assert re.search(r"transfer gap: +0 B, 15 min ago", render_detail(by_bucket, now=NOW))


@pytest.mark.parametrize(
    ("state", "incarnation", "shown"),
    [
        ("idle", FOLLOWING["incarnation"], "idle, not needed now"),
        ("reading", None, "is asked, nothing of this instance was found yet"),
        ("reading", FOLLOWING["incarnation"], "reading"),
        ("up-to-date", FOLLOWING["incarnation"], "up to date, all that is there was read"),
        ("failed", None, "failed, and is tried again: nobody answers"),
    ],
)
def test_what_becomes_of_the_bucket_is_said(
    state: str, incarnation: dict[str, Any] | None, shown: str
) -> None:
    bucket = {"state": state, "error": "nobody answers" if state == "failed" else None}
    detail = render_detail({**FOLLOWING, "incarnation": incarnation, "bucket": bucket}, now=NOW)
    assert re.search(f"^bucket: +{shown}$", detail, re.MULTILINE)


def test_what_an_instance_may_take_is_shown_where_it_is_limited() -> None:
    budget = {
        "memory": {
            "standby_mb": 400,
            "promoted_mb": 4400,
            "standby": {"shared_buffers": "192MB"},
            "promoted": {"shared_buffers": "1024MB", "work_mem": "28794kB"},
            "limited_by_kernel": False,
        },
        "disk": {"limit_bytes": 6 << 20, "used_bytes": None},
        "intake_bytes_per_second": 2 << 20,
        "turn": "waiting",
    }
    lines = render_detail({**FOLLOWING, "budget": budget}, NOW).splitlines()
    shown = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    assert shown["memory"] == (
        "400 MB as a standby, 4400 MB promoted (shared_buffers 1024MB, work_mem 28794kB)"
    )
    assert shown["disk"] == "? of 6.0 MB"
    assert shown["intake"] == "2.0 MB a second at most"
    assert shown["turn"] == "waits to be seeded or to catch up"
    unlimited = render_detail(FOLLOWING, NOW)
    assert "memory" not in unlimited
    assert "turn" not in unlimited

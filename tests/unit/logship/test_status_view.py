"""One instance's status as text: what is not known is never shown as a number."""

from __future__ import annotations

import re
from typing import Any

import pytest

from logship.status_view import render_detail
from logship.status_words import duration, size

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
    "apply_gap": {"bytes": None, "seconds": None},
    "room": {"bytes": None, "free_bytes": None},
    "seed": None,
    "gap": None,
    "compat": None,
    "promotion": None,
    "last_drill": None,
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
    "apply_gap": {"bytes": 1024, "seconds": 2.5},
    "room": {"bytes": 5 << 30, "free_bytes": 6 << 30},
    "compat": {"verdict": "pass", "findings": []},
}


def test_what_is_not_known_is_a_question_mark() -> None:
    detail = render_detail(UNKNOWN_STATUS, NOW)
    assert not re.search(r"\b0\b", detail)
    assert re.search(r"^primary reachable: +\?$", detail, re.MULTILINE)


def test_a_document_of_an_older_applier_can_be_shown() -> None:
    assert "instance:" in render_detail({"name": "main"}, NOW)


def test_everything_of_one_instance_is_shown() -> None:
    detail = render_detail(FOLLOWING, NOW)
    for part in (
        "PostgreSQL 17, system identifier 7301234567890123456",
        "flushed 0/3000060 on timeline 1, heard 0.5 s ago",
        "from 0/2000000, written 0/3000060, durable 0/3000000",
        "running, PostgreSQL 17.10, port 5433",
        "flushed 0/3000060, replayed 0/3000000",
        "1.0 kB, 2.5 s",
        "5.0 GB can still be received, 6.0 GB are free",
    ):
        assert part in detail


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
    detail = render_detail(document, NOW)
    assert "seeding 50%" in detail
    assert "alarm: The slot is gone. [slot-lost]\n  hint: Seed again." in detail
    assert re.search(
        r"^seed: +\[#{11}-{11}\]  50%  512.0 MB of about 1.0 GB$", detail, re.MULTILINE
    )
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
    detail = render_detail(document, NOW)
    assert "WAL from 0/1 to 0/9 is missing, and looked for in the bucket: spilled" in detail
    assert "also to bucket:" in detail
    assert "spilling from 0/1 on (spill), durable 0/9" in detail
    refused = {**bucket, "role": "required", "state": "refused", "what": "another one writes"}
    behind = {**bucket, "state": "gap", "available_lsn": "0/5", "since_lsn": "0/2"}
    detail = render_detail({**FOLLOWING, "other_roads": [refused, behind]}, NOW)
    assert "refused (required), durable 0/9: another one writes" in detail
    assert "WAL from 0/2 to 0/5 is missing there" in detail


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


def test_what_an_instance_was_before_is_shown_with_how_long_it_stays() -> None:
    kept = {
        "system_identifier": "7301",
        "major": 16,
        "since": NOW - 180,
        "durable": "1:0/3000060",
        "replaced_at": None,
        "removed_at": None,
    }
    said = "PostgreSQL 16, system identifier 7301, durable 1:0/3000060, in use until 3 min ago, "
    detail = render_detail({**FOLLOWING, "previous": [kept]}, NOW)
    assert f"{said}stays until the standby of its successor streams" in detail
    replaced = {**kept, "replaced_at": NOW - 3600, "removed_at": NOW + 7200}
    assert f"{said}goes in 2 h 0 min" in render_detail({**FOLLOWING, "previous": [replaced]}, NOW)
    promoted = {**FOLLOWING, "promotion": {}, "previous": [replaced]}
    assert f"{said}stays until it is forgotten" in render_detail(promoted, NOW)
    chosen = {**FOLLOWING, "standby": {**FOLLOWING["standby"], "chosen": "17.10"}}
    assert "PostgreSQL 17.10 (17.10 was chosen), port 5433" in render_detail(chosen, NOW)


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

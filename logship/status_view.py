"""Everything that is known of one instance, as text for a person.  Pure; `now` is seconds since
the epoch.

What is not known is shown as `?`, never as 0.  Reads leniently: an applier of another
version may leave keys out or add some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from logship.status_words import (
    UNKNOWN,
    Document,
    ago,
    alarm_lines,
    apply_gap,
    drill_detail,
    duration,
    link,
    phase,
    protection,
    seed_progress,
    size,
    transfer_gap,
    version_check,
)
from logship.status_words import get as _get
from logship.status_words import text as _text

_BAR_WIDTH = 24


def render_detail(document: Document, now: float) -> str:
    """Everything that is known of one instance."""
    rows = [
        *_identity_rows(document, now),
        *_position_rows(document, now),
        *_work_rows(document, now),
    ]
    width = max(len(label) for label, _ in rows)
    lines = [f"{label + ':':<{width + 1}} {value}" for label, value in rows]
    compat = document.get("compat")
    for finding in (compat or {}).get("findings") or []:
        if finding.get("verdict") != "pass":
            verdict, rule = _text(finding, "verdict"), _text(finding, "rule")
            lines.append(f"  {verdict} {rule}: {_text(finding, 'what')}")
            lines += [f"    hint: {finding['hint']}"] if finding.get("hint") else []
    for alarm in document.get("alarms") or []:
        lines += alarm_lines("alarm: ", alarm)
    return "\n".join(lines)


def _identity_rows(document: Document, now: float) -> Iterable[tuple[str, str]]:
    yield "instance", _text(document, "name")
    yield "phase", phase(document)
    yield "link", link(document, now)
    major = _text(document, "incarnation", "major")
    identifier = _text(document, "incarnation", "system_identifier")
    yield "cluster", f"PostgreSQL {major}, system identifier {identifier}"
    is_open = document.get("promotion") is not None
    for kept in document.get("previous") or []:
        yield "kept from before", _previous(kept, now, is_open=is_open)
    yield "protection", protection(document)


def _position_rows(document: Document, now: float) -> Iterable[tuple[str, str]]:
    flushed = _text(document, "primary", "flush_lsn")
    timeline = _text(document, "primary", "timeline")
    heard = ago(_get(document, "primary", "heard_at"), now)
    yield "primary", f"flushed {flushed} on timeline {timeline}, heard {heard}"
    reachable = {True: "yes", False: "no"}.get(_get(document, "primary", "reachable"), UNKNOWN)
    yield "primary reachable", reachable
    yield "slot", _text(document, "primary", "slot_wal_status")
    start, written = _text(document, "store", "start"), _text(document, "store", "written")
    durable = _text(document, "store", "durable")
    yield "store", f"from {start}, written {written}, durable {durable}"
    state, version = _text(document, "standby", "state"), _text(document, "standby", "version")
    port = _text(document, "standby", "port")
    chosen = _get(document, "standby", "chosen")
    by_hand = f" ({_text(document, 'standby', 'chosen')} was chosen)" if chosen else ""
    yield "standby", f"{state}, PostgreSQL {version}{by_hand}, port {port}"
    flush, replay = (
        _text(document, "standby", "flush_lsn"),
        _text(document, "standby", "replay_lsn"),
    )
    yield "standby positions", f"flushed {flush}, replayed {replay}"
    if _get(document, "standby", "last_error"):
        yield "standby's last error", _text(document, "standby", "last_error")
    yield "transfer gap", transfer_gap(document, now)
    yield "apply gap", apply_gap(document)
    room, free = _get(document, "room", "bytes"), _get(document, "room", "free_bytes")
    yield "room", f"{size(room)} can still be received, {size(free)} are free"


def _work_rows(document: Document, now: float) -> Iterable[tuple[str, str]]:
    if _get(document, "seed", "running"):
        yield "seed", seed_progress(document, _BAR_WIDTH)
    if document.get("gap"):
        start = _text(document, "gap", "from_lsn")
        again = _text(document, "gap", "available_lsn")
        what = _text(document, "gap", "what")
        fate = "is lost to the store"
        if _get(document, "gap", "filling"):
            fate = "is missing, and looked for in the bucket"
        yield "gap", f"WAL from {start} to {again} {fate}: {what}"
    if document.get("bucket"):
        yield "bucket", _bucket(document)
    for road in document.get("other_roads") or []:
        yield f"also to {_text(road, 'name')}", _other_road(road)
    yield "version check", version_check(document)
    yield "last drill", drill_detail(document, now)
    yield from _budget_rows(document)
    promotion = document.get("promotion")
    if isinstance(promotion, Mapping):
        timeline, lsn = _text(promotion, "opened_timeline"), _text(promotion, "opened_lsn")
        yield "promoted", f"opened on timeline {timeline} at {lsn}"
        yield "lost", _text(promotion, "lost")


def _previous(kept: Document, now: float, *, is_open: bool) -> str:
    major, identifier = _text(kept, "major"), _text(kept, "system_identifier")
    parts = [
        f"PostgreSQL {major}, system identifier {identifier}",
        f"durable {_text(kept, 'durable')}",
        f"in use until {ago(_get(kept, 'since'), now)}",
    ]
    removed_at = _get(kept, "removed_at")
    if is_open:
        parts.append("stays until it is forgotten")
    elif isinstance(removed_at, int | float):
        parts.append(f"goes in {duration(removed_at - now)}")
    else:
        parts.append("stays until the standby of its successor streams")
    return ", ".join(parts)


def _budget_rows(document: Document) -> Iterable[tuple[str, str]]:
    """What the instance may take, where that is limited."""
    memory = _get(document, "budget", "memory")
    if memory:
        yield "memory", f"{_text(memory, 'standby_mb')} MB as a standby, {promoted_memory(memory)}"
    if _get(document, "budget", "disk"):
        used = size(_get(document, "budget", "disk", "used_bytes"))
        yield "disk", f"{used} of {size(_get(document, 'budget', 'disk', 'limit_bytes'))}"
    rate = _get(document, "budget", "intake_bytes_per_second")
    if rate:
        yield "intake", f"{size(rate)} a second at most"
    turn = _get(document, "budget", "turn")
    if turn:
        yield "turn", "waits to be seeded or to catch up" if turn == "waiting" else turn


def promoted_memory(memory: Document) -> str:
    """What a promotion gives the server: of `budget.memory` of a status document."""
    parameters = ", ".join(f"{key} {value}" for key, value in memory["promoted"].items())
    return f"{_text(memory, 'promoted_mb')} MB promoted ({parameters})"


def _bucket(document: Document) -> str:
    state = _text(document, "bucket", "state")
    if state == "failed":
        return f"failed, and is tried again: {_text(document, 'bucket', 'error')}"
    if state == "reading" and _get(document, "incarnation") is None:
        return "is asked, nothing of this instance was found yet"
    return {
        "idle": "idle, not needed now",
        "up-to-date": "up to date, all that is there was read",
    }.get(state, state)


def _other_road(road: Document) -> str:
    state, since = _text(road, "state"), _text(road, "since_lsn")
    if state == "spilling":
        # The shipper may not know what an earlier one began with.
        state = "spilling" if since == UNKNOWN else f"spilling from {since} on"
    elif state == "gap":
        state = f"WAL from {since} to {_text(road, 'available_lsn')} is missing there"
    parts = [f"{state} ({_text(road, 'role')}), durable {_text(road, 'durable')}"]
    if _get(road, "what"):
        parts.append(_text(road, "what"))
    return ": ".join(parts)

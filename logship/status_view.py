"""The status document as text for a person.  Pure; `now` is seconds since the epoch.

What is not known is shown as `?`, never as 0.  Reads leniently: an applier of another
version may leave keys out or add some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

UNKNOWN = "?"

_COLUMNS = (
    "NAME",
    "PHASE",
    "LINK",
    "PROTECTION",
    "FLUSHED",
    "DURABLE",
    "TRANSFER GAP",
    "APPLY GAP",
    "STANDBY",
    "ALARMS",
)

Document = Mapping[str, Any]


def render_table(documents: Sequence[Document], now: float) -> str:
    """One line an instance, then every alarm."""
    if not documents:
        return "no instances"
    rows = [_COLUMNS, *(_row(each, now) for each in documents)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for document in documents:
        alarms = document.get("alarms") or []
        lines += [""] if alarms else []
        for alarm in alarms:
            lines += _alarm_lines(f"{_text(document, 'name')}: ", alarm)
    return "\n".join(lines)


def render_detail(document: Document, now: float) -> str:
    """Everything that is known of one instance."""
    rows = [*_identity_rows(document, now), *_position_rows(document, now), *_work_rows(document)]
    width = max(len(label) for label, _ in rows)
    lines = [f"{label + ':':<{width + 1}} {value}" for label, value in rows]
    compat = document.get("compat")
    for finding in (compat or {}).get("findings") or []:
        if finding.get("verdict") != "pass":
            verdict, rule = _text(finding, "verdict"), _text(finding, "rule")
            lines.append(f"  {verdict} {rule}: {_text(finding, 'what')}")
            lines += [f"    hint: {finding['hint']}"] if finding.get("hint") else []
    for alarm in document.get("alarms") or []:
        lines += _alarm_lines("alarm: ", alarm)
    return "\n".join(lines)


def size(byte_count: object) -> str:
    """`16.0 MB` (powers of 1024, as PostgreSQL counts); `?` if not known."""
    if not isinstance(byte_count, int | float):
        return UNKNOWN
    amount = float(byte_count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(amount) < 1024 or unit == "TB":
            break
        amount /= 1024
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def duration(seconds: object) -> str:
    """`0.4 s`, `12 s`, `3 min`, `2 h 5 min`, `4 d 2 h`; `?` if not known."""
    if not isinstance(seconds, int | float):
        return UNKNOWN
    # Clocks of two calls may differ by a little: an age is never negative.
    total = max(0.0, float(seconds))
    if total < 10:
        return f"{total:.1f} s"
    if total < 120:
        return f"{total:.0f} s"
    minutes = int(total // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def _row(document: Document, now: float) -> tuple[str, ...]:
    alarms = document.get("alarms") or []
    return (
        _text(document, "name"),
        _phase(document),
        _link(document, now),
        _protection(document),
        _text(document, "primary", "flush_lsn"),
        _text(document, "store", "durable"),
        _transfer_gap(document, now),
        size(_get(document, "apply_gap", "bytes")),
        _text(document, "standby", "state"),
        str(len(alarms)) if alarms else "-",
    )


def _identity_rows(document: Document, now: float) -> Iterable[tuple[str, str]]:
    yield "instance", _text(document, "name")
    yield "phase", _phase(document)
    yield "link", _link(document, now)
    major = _text(document, "incarnation", "major")
    identifier = _text(document, "incarnation", "system_identifier")
    yield "cluster", f"PostgreSQL {major}, system identifier {identifier}"
    yield "protection", _protection(document)


def _position_rows(document: Document, now: float) -> Iterable[tuple[str, str]]:
    flushed = _text(document, "primary", "flush_lsn")
    timeline = _text(document, "primary", "timeline")
    heard = _ago(_get(document, "primary", "heard_at"), now)
    yield "primary", f"flushed {flushed} on timeline {timeline}, heard {heard}"
    reachable = {True: "yes", False: "no"}.get(_get(document, "primary", "reachable"), UNKNOWN)
    yield "primary reachable", reachable
    yield "slot", _text(document, "primary", "slot_wal_status")
    start, written = _text(document, "store", "start"), _text(document, "store", "written")
    durable = _text(document, "store", "durable")
    yield "store", f"from {start}, written {written}, durable {durable}"
    state, version = _text(document, "standby", "state"), _text(document, "standby", "version")
    port = _text(document, "standby", "port")
    yield "standby", f"{state}, PostgreSQL {version}, port {port}"
    flush, replay = (
        _text(document, "standby", "flush_lsn"),
        _text(document, "standby", "replay_lsn"),
    )
    yield "standby positions", f"flushed {flush}, replayed {replay}"
    if _get(document, "standby", "last_error"):
        yield "standby's last error", _text(document, "standby", "last_error")
    yield "transfer gap", _transfer_gap(document, now)
    yield "apply gap", size(_get(document, "apply_gap", "bytes"))


def _work_rows(document: Document) -> Iterable[tuple[str, str]]:
    if _get(document, "seed", "running"):
        yield "seed", _seed_progress(document)
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
    yield "version check", _text(document, "compat", "verdict")
    yield from _budget_rows(document)
    promotion = document.get("promotion")
    if isinstance(promotion, Mapping):
        timeline, lsn = _text(promotion, "opened_timeline"), _text(promotion, "opened_lsn")
        yield "promoted", f"opened on timeline {timeline} at {lsn}"
        yield "lost", _text(promotion, "lost")


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


def _phase(document: Document) -> str:
    phase = _text(document, "phase")
    if phase != "seeding" or not _get(document, "seed", "running"):
        return phase
    done = _get(document, "seed", "bytes_done")
    estimated = _get(document, "seed", "bytes_estimated")
    if isinstance(done, int) and isinstance(estimated, int) and estimated > 0:
        # An estimate: the cluster grows while it is copied.
        return f"{phase} {min(99, done * 100 // estimated)}%"
    return phase


def _seed_progress(document: Document) -> str:
    done = size(_get(document, "seed", "bytes_done"))
    return f"{done} of about {size(_get(document, 'seed', 'bytes_estimated'))}"


def _link(document: Document, now: float) -> str:
    state, since = _text(document, "link", "state"), _get(document, "link", "since")
    if state in ("never", UNKNOWN) or since is None:
        return state
    roads = document.get("other_roads") or []
    spilling = any(_get(road, "state") == "spilling" for road in roads)
    return f"{state} {duration(now - since)}{', spilling' if spilling else ''}"


def _protection(document: Document) -> str:
    configured = _text(document, "protection", "configured")
    in_effect = _text(document, "protection", "in_effect")
    if in_effect == "unknown":
        in_effect = UNKNOWN
    return configured if configured == in_effect else f"{configured}, in effect {in_effect}"


def _transfer_gap(document: Document, now: float) -> str:
    byte_count = _get(document, "transfer_gap", "bytes")
    seconds = _get(document, "transfer_gap", "seconds")
    if byte_count is None and seconds is None:
        return UNKNOWN
    if _get(document, "link", "state") == "bucket":
        # As of the newest object: nobody here knows what the primary has done since.
        return f"{size(byte_count)}, {_ago(_get(document, 'primary', 'heard_at'), now)}"
    return f"{size(byte_count)}, {duration(seconds)}"


def _ago(moment: object, now: float) -> str:
    if not isinstance(moment, int | float):
        return UNKNOWN
    return f"{duration(now - moment)} ago"


def _alarm_lines(prefix: str, alarm: Document) -> list[str]:
    lines = [f"{prefix}{_text(alarm, 'what')} [{_text(alarm, 'code')}]"]
    return [*lines, f"  hint: {alarm['hint']}"] if alarm.get("hint") else lines


def _get(document: Any, *path: str) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def _text(document: Document, *path: str) -> str:
    return _shown(_get(document, *path))


def _shown(value: object) -> str:
    return UNKNOWN if value is None else str(value)

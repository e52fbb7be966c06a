"""What the table and the detail of a status say in the same words.  Pure.

What is not known is shown as `?`, never as 0.  Reads leniently: an applier of another
version may leave keys out or add some.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logship.terminal import bar

UNKNOWN = "?"

Document = Mapping[str, Any]


def printable(document: Document) -> dict[str, Any]:
    """The document with nothing in its texts that a terminal obeys, or that begins a line: much
    of it is what a primary said of itself, and that may be in other hands."""
    return {name: _plain(value) for name, value in document.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return "".join(each if each.isprintable() else "?" for each in value)
    if isinstance(value, Mapping):
        return printable(value)
    return [_plain(each) for each in value] if isinstance(value, list) else value


def get(document: Any, *path: str) -> Any:
    """What stands at `path`; None if it is null, or any part of the way is missing."""
    for name in path:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def text(document: Document, *path: str) -> str:
    value = get(document, *path)
    return UNKNOWN if value is None else str(value)


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


def last_drill(document: Document, now: float) -> str:
    """`3 h 10 min ago`, `failed 3 h 10 min ago`, `never`; `?` where an applier says nothing of it,
    or more than is known here."""
    if "last_drill" in document and document["last_drill"] is None:
        return "never"
    at, passed = get(document, "last_drill", "at"), get(document, "last_drill", "passed")
    if not isinstance(at, int | float) or not isinstance(passed, bool):
        return UNKNOWN
    return ago(at, now) if passed else f"failed {ago(at, now)}"


def drill_detail(document: Document, now: float) -> str:
    """`3 h 10 min ago: open in 41 s, at 1:0/5000060, the last commit 4.0 s before it began`."""
    shown = last_drill(document, now)
    seconds, lsn = get(document, "last_drill", "seconds"), get(document, "last_drill", "lsn")
    if not isinstance(seconds, int | float) or not isinstance(lsn, str):
        return shown
    parts = [
        f"open in {duration(seconds)}",
        f"at {get(document, 'last_drill', 'timeline')}:{lsn}",
    ]
    at, commit = get(document, "last_drill", "at"), get(document, "last_drill", "last_commit_time")
    if isinstance(at, int | float) and isinstance(commit, int | float):
        parts.append(f"the last commit {duration(at - commit)} before it began")
    return f"{shown}: {', '.join(parts)}"


def ago(moment: object, now: float) -> str:
    if not isinstance(moment, int | float):
        return UNKNOWN
    return f"{duration(now - moment)} ago"


def phase(document: Document) -> str:
    """With how much of a seed is here."""
    shown = text(document, "phase")
    share = seed_share(document)
    return shown if shown != "seeding" or share is None else f"{shown} {int(share * 100)}%"


def seed_share(document: Document) -> float | None:
    """How much of the seed is here, below 1: the cluster grows while it is copied."""
    if not get(document, "seed", "running"):
        return None
    done = get(document, "seed", "bytes_done")
    estimated = get(document, "seed", "bytes_estimated")
    if isinstance(done, int) and isinstance(estimated, int) and estimated > 0:
        return min(0.99, done / estimated)
    return None


def seed_progress(document: Document, bar_width: int) -> str:
    """`[####----]  52%  1.0 GB of about 2.0 GB, 96.0 MB/s, 10 s left`; only what is known."""
    done = size(get(document, "seed", "bytes_done"))
    parts = [f"{done} of about {size(get(document, 'seed', 'bytes_estimated'))}"]
    rate = get(document, "seed", "bytes_per_second")
    if rate is not None:
        parts.append(f"{size(rate)}/s")
    left = get(document, "seed", "seconds_left")
    if left is not None:
        parts.append(f"{duration(left)} left")
    share = seed_share(document)
    drawn = f"{bar(share, bar_width)} {int(share * 100):3}%  " if share is not None else ""
    return drawn + ", ".join(parts)


def link(document: Document, now: float) -> str:
    state, since = text(document, "link", "state"), get(document, "link", "since")
    if state in ("never", UNKNOWN) or since is None:
        return state
    parts = [f"{state} {duration(now - since)}"]
    roads = document.get("other_roads") or []
    if any(get(road, "state") == "spilling" for road in roads):
        parts.append("spilling")
    if get(document, "primary", "reachable") is False:
        parts.append("primary away")
    return ", ".join(parts)


def protection(document: Document) -> str:
    configured = text(document, "protection", "configured")
    in_effect = text(document, "protection", "in_effect")
    if in_effect == "unknown":
        in_effect = UNKNOWN
    return configured if configured == in_effect else f"{configured}, in effect {in_effect}"


def transfer_gap(document: Document, now: float) -> str:
    byte_count = get(document, "transfer_gap", "bytes")
    seconds = get(document, "transfer_gap", "seconds")
    if byte_count is None and seconds is None:
        return UNKNOWN
    is_away = get(document, "primary", "reachable") is False
    if is_away or get(document, "link", "state") in ("bucket", "lost"):
        # As of the newest object, or the last word: nobody here knows what it has done since.
        return f"{size(byte_count)}, {ago(get(document, 'primary', 'heard_at'), now)}"
    return f"{size(byte_count)}, {duration(seconds)}"


def apply_gap(document: Document) -> str:
    byte_count = get(document, "apply_gap", "bytes")
    seconds = get(document, "apply_gap", "seconds")
    if byte_count is None or (byte_count == 0 and seconds is None):
        return size(byte_count)
    return f"{size(byte_count)}, {duration(seconds)}"


def version_check(document: Document) -> str:
    """The verdict, and how many rules say so if it is not to pass."""
    verdict = get(document, "compat", "verdict")
    findings = get(document, "compat", "findings") or []
    count = sum(get(finding, "verdict") == verdict for finding in findings)
    shown = text(document, "compat", "verdict")
    return f"{shown} {count}" if count and verdict != "pass" else shown


def alarm_lines(prefix: str, alarm: Document) -> list[str]:
    lines = [f"{prefix}{text(alarm, 'what')} [{text(alarm, 'code')}]"]
    return [*lines, f"  hint: {alarm['hint']}"] if alarm.get("hint") else lines

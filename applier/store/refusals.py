"""What the store says when it says no."""

from __future__ import annotations

from pathlib import Path

from applier.store import positions
from logship.durable import DISK_FULL_ERRNOS
from logship.errors import Code, LogshipError
from logship.lsn import Lsn


def removed(timeline: int, lsn: int) -> LogshipError:
    return LogshipError(
        Code.WAL_REMOVED,
        f"WAL of timeline {timeline} at {Lsn(lsn)} is not in the store",
        "a standby that needs it must be seeded again",
    )


def refusal(verdict: positions.Verdict, timeline: int, start: int, size_bytes: int) -> LogshipError:
    span = f"{size_bytes} bytes of timeline {timeline} from {Lsn(start % (1 << 64))}"
    match verdict:
        case positions.Gap(expected):
            return LogshipError(
                Code.WAL_GAP,
                f"{span} don't fit: the store goes on at {expected}",
                "send from there; if the primary no longer has it, seed again",
            )
        case positions.HistoryMissing(missing):
            return LogshipError(
                Code.HISTORY_MISSING,
                f"{span} came before the history of timeline {missing}",
                "send the timeline's history first",
            )
        case positions.Ended(current):
            return LogshipError(
                Code.SUPERSEDED,
                f"{span} were refused: the store went on to {current}",
                "this server was left behind by a promotion; ship from the new primary",
            )
        case positions.Unrelated(why):
            return LogshipError(
                Code.TIMELINE_DIVERGED,
                f"{span} can't follow what is stored: {why}",
                "find out which server is the right one, then seed again from it",
            )
        case positions.Malformed(why):
            return LogshipError(
                Code.BAD_FRAME, f"not a span: {why}", "a span holds bytes of one segment"
            )
        case _:
            raise AssertionError(f"{verdict} is no refusal")


def unreadable(timeline: int, lsn: int, error: OSError) -> LogshipError:
    """Why stored WAL can't be read back."""
    return LogshipError(
        Code.STORE_FAILED,
        f"WAL of timeline {timeline} at {Lsn(lsn)} can't be read back: {error.strerror or error}",
        "it is tried again by itself; if this repeats look at the disk (dmesg)",
        retryable=True,
    )


def unusable(error: OSError, directory: Path) -> LogshipError:
    """Why a store can't be opened."""
    if error.errno in DISK_FULL_ERRNOS:
        return LogshipError(
            Code.DISK_FULL,
            f"no room to open the store {directory}",
            "make room",
            retryable=True,
        )
    return LogshipError(
        Code.STORE_FAILED,
        f"the store {directory} can't be opened: {error.strerror or error}",
        "check the disk (dmesg), the mount options and who owns the directory",
    )

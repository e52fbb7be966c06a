"""Where the WAL server gets its WAL: the seam between it and the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from applier.store.reading import FileSlice
from logship.lsn import Lsn, Position
from logship.wal import History, WalLine


class Run(Protocol):
    """WAL held in one piece, along one line of timelines."""

    @property
    def end(self) -> Position:
        """End of what is written, on its newest timeline."""

    def extent_of(self, timeline: int, /) -> tuple[Lsn, Lsn] | None:
        """The bytes [start, end) of `timeline`; None if it has none.

        They may reach beyond the point where a later timeline forked off: bytes of the old
        timeline are never removed for that.
        """


class WalSource(Protocol):
    """WAL of one incarnation, growing at its end.

    Everything but `read`, `share` and `history_content` answers from memory.  All of it is
    called on the event loop's thread.
    """

    @property
    def line(self) -> WalLine:
        """System identifier, major and segment size."""

    @property
    def written(self) -> Position | None:
        """End of what is written, on the newest timeline that has WAL here; None before there
        is any WAL (nothing is served then)."""

    def runs(self) -> Sequence[Run]:
        """All WAL here, newest first: the first is the one that grows, up to `written`.  The
        others ended for good: what came after them is missing, up to where a newer one starts.
        [] before there is any WAL."""

    def shape(self) -> object:
        """Equal to an earlier one if `written`, `runs` and `histories` give what they gave
        then."""

    def histories(self) -> Mapping[int, History]:
        """Parsed histories by timeline; has one for each timeline above 1 that has WAL."""

    def history_content(self, timeline: int, /) -> bytes | None:
        """The `.history` file as the primary wrote it; None if it never arrived."""

    def read(self, timeline: int, lsn: int, max_bytes: int, /) -> bytes:
        """Up to `max_bytes` of `timeline` from `lsn`; b"" when nothing is there yet.

        Raises LogshipError: WAL_REMOVED where no run holds the place (any more), STORE_FAILED
        or STORE_DAMAGED when the disk gives something else.
        """

    def share(self, timeline: int, lsn: int, max_bytes: int, /) -> FileSlice | None:
        """What `read` would give, as a part of a file; the caller closes it.

        None where `read` would give nothing, and where there is no file: `read` then.  Raises
        LogshipError as `read`.
        """

    def subscribe(self, callback: Callable[[], None], /) -> Callable[[], None]:
        """Call `callback` on the event loop's thread after each change of `written` or `runs`.
        Returns what ends the subscription."""

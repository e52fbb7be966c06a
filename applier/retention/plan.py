"""The rules of retention, without any I/O.

WAL goes from its beginning only, so what is left can be replayed from its first byte on.  A
piece of WAL stays if something needs it (`Need`), if it is younger than the window, or if WAL
before it stays.  Where no need is known nothing goes: not knowing is no reason to remove.
Times are those at which things were stored, by the clock of where they are stored: of WAL that
arrived late more is kept than the window says, never less.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import Final, NamedTuple

UNFINISHED_SECONDS: Final = 24 * 3600.0
"""A seed that has no end and got nothing for so long is given up by whoever made it."""
COMPACTED_SECONDS: Final = 8 * 86400.0
"""How long small objects stay beside the compacted one.  Their shipper removes them after its
`compact_grace_seconds`, a week at most: these are the ones that it forgot."""

EVERY_SEED: Final = "*"
"""Stands for the ids of all."""


class Need(NamedTuple):
    """WAL from `lsn` on `timeline` on, and all that came after, is needed."""

    timeline: int
    lsn: int
    why: str


class Piece(NamedTuple):
    """A file or an object with WAL [lsn, end) of a timeline."""

    name: str
    timeline: int
    lsn: int
    end: int
    size_bytes: int
    modified_at: float
    is_compacted: bool = False
    """The same WAL is in a larger piece as well."""


class Group(NamedTuple):
    """Pieces in a row for which the same was decided."""

    first: str
    last: str
    pieces: int
    size_bytes: int
    why: str


class WalPlan(NamedTuple):
    remove: list[Piece]
    removed: list[Group]
    kept: list[Group]

    @property
    def floors(self) -> dict[int, int]:
        """By timeline, the end of the WAL that goes."""
        floors: dict[int, int] = {}
        for piece in self.remove:
            if not piece.is_compacted:
                floors[piece.timeline] = max(piece.end, floors.get(piece.timeline, 0))
        return floors


class Seed(NamedTuple):
    """A complete seed."""

    name: str
    timeline: int
    start_lsn: int
    size_bytes: int
    finished_at: float


class SeedPlan(NamedTuple):
    remove: list[Seed]
    keep: list[Seed]
    removed: list[Group]
    kept: list[Group]


def plan_wal(
    pieces: Iterable[Piece], needs: Collection[Need], *, window_start: float, now: float
) -> WalPlan:
    """window_start: when the window began; pieces stored since stay."""
    remove: list[Piece] = []
    gone: list[tuple[Piece, str]] = []
    kept: list[tuple[Piece, str]] = []
    keeping = False
    for piece in sorted(pieces, key=_order):
        if piece.is_compacted:
            is_old = piece.modified_at < now - COMPACTED_SECONDS
            why = "" if is_old else "it was compacted a short while ago"
        elif not needs:
            why = "what is needed is not known"
        else:
            why = _need_of(piece, needs) or _age_of(piece, window_start)
            if not why and keeping:
                why = "WAL before it is kept"
            keeping = keeping or bool(why)
        if why:
            kept.append((piece, why))
        else:
            remove.append(piece)
            gone.append((piece, _reason_to_go(piece)))
    return WalPlan(remove, _grouped(gone), _grouped(kept))


def plan_seeds(
    seeds: Iterable[Seed],
    *,
    keep: int,
    window_start: float | None,
    in_use: Collection[str] = (),
) -> SeedPlan:
    """keep: that many of the newest stay in any case.  window_start: what is needed to recover
    to any moment since stays as well; None: there is no window.  in_use: ids of seeds that a
    restore starts from, or EVERY_SEED."""
    ordered = sorted(seeds, key=lambda seed: seed.finished_at)
    newest = {seed.name for seed in ordered[-keep:]} if keep > 0 else set()
    first = ""
    if window_start is not None:
        first = next((s.name for s in reversed(ordered) if s.finished_at <= window_start), "")
    remove: list[Seed] = []
    kept: list[Seed] = []
    removed: list[Group] = []
    reasons: list[Group] = []
    for seed in ordered:
        if seed.name in newest:
            why = f"one of the newest {keep}"
        elif seed.name == first:
            why = "the window begins with it"
        elif window_start is not None and seed.finished_at > window_start:
            why = "it is within the window"
        elif EVERY_SEED in in_use or _id_of(seed) in in_use:
            why = "a restore starts from it"
        else:
            remove.append(seed)
            removed.append(_group_of(seed, "newer ones are there, and nothing needs it"))
            continue
        kept.append(seed)
        reasons.append(_group_of(seed, why))
    return SeedPlan(remove, kept, removed, reasons)


def is_given_up(last_added_at: float, now: float) -> bool:
    """Whether a seed without an end is nobody's any more."""
    return last_added_at < now - UNFINISHED_SECONDS


def needs_of_seeds(seeds: Sequence[Seed]) -> list[Need]:
    """A seed is worth nothing without the WAL from its start on."""
    return [Need(seed.timeline, seed.start_lsn, f"the seed {seed.name}") for seed in seeds]


def _id_of(seed: Seed) -> str:
    return seed.name.rpartition("-")[2]


def _order(piece: Piece) -> tuple[int, int, str]:
    return piece.timeline, piece.lsn, piece.name


def _need_of(piece: Piece, needs: Collection[Need]) -> str:
    for need in needs:
        if piece.timeline > need.timeline or (
            piece.timeline == need.timeline and piece.end > need.lsn
        ):
            return need.why
    return ""


def _age_of(piece: Piece, window_start: float) -> str:
    return "it is within the window" if piece.modified_at >= window_start else ""


def _reason_to_go(piece: Piece) -> str:
    return "it was compacted" if piece.is_compacted else "nothing needs it, and it is older"


def _grouped(decided: Sequence[tuple[Piece, str]]) -> list[Group]:
    groups = []
    for (_, why), run in groupby(decided, key=lambda each: (each[0].timeline, each[1])):
        pieces = [piece for piece, _ in run]
        size_bytes = sum(piece.size_bytes for piece in pieces)
        groups.append(Group(pieces[0].name, pieces[-1].name, len(pieces), size_bytes, why))
    return groups


def _group_of(seed: Seed, why: str) -> Group:
    return Group(seed.name, seed.name, 1, seed.size_bytes, why)

"""What a store still holds once WAL below certain places is gone: pure rules, as `positions`.

`floors` names for a timeline the LSN, a segment's start, below which its WAL may go; what is
not named stays.  Of contiguous WAL only the beginning goes: where an older timeline is kept,
nothing of the newer ones is taken out behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from applier.store.layout import Chain, parse_wal_name
from applier.store.positions import ChainPositions, Extent
from applier.store.runs import is_continued
from logship.lsn import Lsn, Position
from logship.wal import segment_start

Floors = Mapping[int, int]
Extents = Mapping[int, Extent]


def trimmed(extents: Extents, floors: Floors) -> dict[int, Extent]:
    """What is left of contiguous WAL."""
    left: dict[int, Extent] = {}
    for timeline, extent in sorted(extents.items()):
        floor = floors.get(timeline, 0)
        if left or floor <= extent.start:
            left[timeline] = extent
        elif floor < extent.end:
            left[timeline] = Extent(Lsn(floor), extent.end)
    return left


def trimmed_chain(chain: ChainPositions, floors: Floors) -> ChainPositions:
    """The current chain, all of it durable, without what goes: it never loses its end."""
    assert chain.durable == chain.written
    last = chain.written
    end = segment_start(last.lsn, chain.segment_bytes)
    kept = {**floors, last.timeline: min(floors.get(last.timeline, 0), end)}
    extents = trimmed(chain.extents, kept)
    if not extents:  # its end is right at a segment's start
        extents = {last.timeline: Extent(last.lsn, last.lsn)}
    timeline = min(extents)
    start = Position(timeline, extents[timeline].start)
    return chain if start == chain.start else chain.without_below(start, extents)


def trimmed_entries(
    chains: Sequence[Chain], before: ChainPositions, after: ChainPositions, floors: Floors
) -> list[Chain]:
    """The entries of chains.json, when the current chain goes from `before` to `after`.

    An entry starts where what is left of it does; one of which nothing is left starts where
    the chain does that went on from it, as `durable_of` its seed is still that chain's.
    """
    size = before.segment_bytes
    entries = [chains[-1] if after.start == before.start else _starting(chains[-1], after.start)]
    next_old: tuple[Position, Extents] = (before.start, before.extents)
    next_start = after.start
    for chain in reversed(chains[:-1]):
        old_start = Position(chain.timeline, segment_start(chain.lsn, size))
        old = chain.extents
        left = trimmed(old, floors)
        went_on = is_continued(old, next_old[1]) if old else old_start == next_old[0]
        start = old_start
        if left and left != old:
            start = Position(min(left), left[min(left)].start)
        elif not left and went_on:
            start = next_start
        entry = chain if start == old_start else _starting(chain, start)
        entries.append(entry if left == old else entry.holding(left))
        next_old, next_start = (old_start, old or next_old[1]), start
    return entries[::-1]


def files_below(
    names: Iterable[str], floors: Floors, kept: Sequence[Extents], segment_bytes: int
) -> list[str]:
    """Files of segments that end at or below their floor and have no byte that is kept."""
    found = []
    for name, timeline, lsn in _wal_files(names, segment_bytes):
        end = lsn + segment_bytes
        holds = any(
            extents[timeline].start < end and lsn < extents[timeline].end
            for extents in kept
            if timeline in extents
        )
        if end <= floors.get(timeline, 0) and not holds:
            found.append(name)
    return sorted(found)


def files_from(names: Iterable[str], start: Position, segment_bytes: int) -> list[str]:
    """Files that recovery could take for those of a chain that begins at `start`."""
    return [
        name
        for name, timeline, lsn in _wal_files(names, segment_bytes)
        if (timeline, lsn) >= (start.timeline, start.lsn)
    ]


def _wal_files(names: Iterable[str], segment_bytes: int) -> Iterator[tuple[str, int, Lsn]]:
    for name in names:
        place = parse_wal_name(name, segment_bytes)
        if place is not None:
            yield name, *place


def _starting(chain: Chain, start: Position) -> Chain:
    return chain.starting(start.timeline, start.lsn)

"""The seeds that a restore may start from, wherever they are kept."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from logship.bucket.reading import Bucket
from logship.bucket.seed_archive import SeedInfo, list_seeds, read_seed
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedChunk, SeedEnd


class SeedChoice:
    """A complete seed and the place it is kept in."""

    def __init__(self, info: SeedInfo, place: Bucket) -> None:
        self.info = info
        self.place = place

    @property
    def end_lsn(self) -> int:
        """Replay must reach this before the data is consistent."""
        return self.info.end_lsn

    @property
    def where(self) -> str:
        return self.place.store.name

    def frames(self) -> Generator[tuple[SeedBegin | SeedChunk | SeedEnd, bytes]]:
        """As `applier.receivers.seed.SeedReceiver` takes them; `close` it.  Blocks."""
        place = self.place
        yield from read_seed(place.store, place.keys, self.info, place.identities)

    def as_dict(self) -> dict[str, Any]:
        """The `--json` form."""
        info = self.info
        return {
            "seed": info.begin.seed_id,
            "where": self.where,
            "timeline": info.timeline,
            "start_lsn": str(info.start_lsn),
            "end_lsn": str(info.end_lsn),
            "bytes": info.raw_bytes,
            "stored_bytes": info.stored_bytes,
            "finished_at": info.finished_at,
        }


def find_seeds(places: Sequence[Bucket]) -> list[SeedChoice]:
    """All complete ones that can be opened; of one that is kept in several places the first
    place's.  Blocks.  Raises LogshipError: of a store, and IDENTITY_MISSING if none of those that
    are there can be opened."""
    found: dict[str, SeedChoice] = {}
    sealed: LogshipError | None = None
    for place in places:
        try:
            seeds = list_seeds(place.store, place.keys, place.identities, skip_sealed=True)
        except LogshipError as error:
            if error.code is not Code.IDENTITY_MISSING:
                raise
            sealed = error
            continue
        for info in seeds:
            found.setdefault(info.begin.seed_id, SeedChoice(info, place))
    if sealed is not None and not found:
        raise sealed
    return list(found.values())

"""Names of objects, made and taken apart."""

from __future__ import annotations

import re
from typing import NamedTuple

from logship.identity import Incarnation
from logship.lsn import Lsn
from logship.wal import segment_name

EPOCH_NAME = "epoch"
ALIVE_NAME = "alive"

_PLACE = re.compile(r"\A([0-9A-F]{8})/([0-9A-F]{16})(?:\.([1-9][0-9]{0,5}))?\Z")
_TIMELINE = re.compile(r"\A[0-9A-F]{8}\Z")
_SEED = re.compile(r"\A([0-9A-F]{16})-([0-9a-f]{1,64})\Z")


class Place(NamedTuple):
    """Where to look for the next object.  Ordered as the WAL is."""

    timeline: int
    lsn: Lsn
    step: int = 0
    """How many markers that leave the position unchanged stand here before it."""

    def __str__(self) -> str:
        step = f".{self.step}" if self.step else ""
        return f"{self.timeline:08X}/{int(self.lsn):016X}{step}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read the form that stands in keys.  Raises ValueError."""
        match = _PLACE.match(text)
        if match is None:
            raise ValueError(f"not a place in a bucket: {text!r}")
        return cls(int(match[1], 16), Lsn(int(match[2], 16)), int(match[3] or 0))


class SeedName(NamedTuple):
    """A seed's folder.  Sorts by where its WAL starts."""

    start_lsn: Lsn
    seed_id: str

    def __str__(self) -> str:
        return f"{int(self.start_lsn):016X}-{self.seed_id}"

    @classmethod
    def parse(cls, text: str) -> SeedName:
        """Raises ValueError."""
        match = _SEED.match(text)
        if match is None:
            raise ValueError(f"not a seed's folder: {text!r}")
        return cls(Lsn(int(match[1], 16)), match[2])


class Keys(NamedTuple):
    """The keys of one incarnation of one instance."""

    instance: str
    incarnation: Incarnation

    @property
    def root(self) -> str:
        return f"{self.instance}/{self.incarnation}/"

    @property
    def epoch(self) -> str:
        return epoch_key(self.instance)

    @property
    def all_wal(self) -> str:
        """Prefix of all spans and markers."""
        return f"{self.root}wal/"

    def wal(self, place: Place) -> str:
        return f"{self.all_wal}{place}"

    def wal_of(self, timeline: int) -> str:
        """Prefix of the spans and markers of one timeline."""
        return f"{self.all_wal}{timeline:08X}/"

    @property
    def all_segments(self) -> str:
        return f"{self.root}segments/"

    def segment(self, timeline: int, lsn: int, segment_bytes: int) -> str:
        """The finished segment that holds `lsn`."""
        return f"{self.segments_of(timeline)}{segment_name(timeline, lsn, segment_bytes)}"

    def segments_of(self, timeline: int) -> str:
        return f"{self.all_segments}{timeline:08X}/"

    @property
    def all_histories(self) -> str:
        return f"{self.root}histories/"

    def history(self, timeline: int) -> str:
        return f"{self.all_histories}{timeline:08X}"

    def timeline_of_history(self, key: str) -> int:
        """Raises ValueError for what is no history's key."""
        return parse_timeline(key.removeprefix(self.all_histories))

    def profile(self, digest: str) -> str:
        return f"{self.root}profiles/{digest}"

    @property
    def all_seeds(self) -> str:
        return f"{self.root}seeds/"

    def seed(self, name: SeedName, part: str) -> str:
        """part: a path below the seed's folder, "" for its prefix."""
        return f"{self.all_seeds}{name}/{part}"


def epoch_key(instance: str) -> str:
    return f"{instance}/{EPOCH_NAME}"


def alive_key(instance: str) -> str:
    """Of the shipper's sign of life."""
    return f"{instance}/{ALIVE_NAME}"


def parse_timeline(name: str) -> int:
    """Of a folder, or of a history's object.  Raises ValueError."""
    if _TIMELINE.match(name) is None:
        raise ValueError(f"not a timeline in a bucket: {name!r}")
    return int(name, 16)

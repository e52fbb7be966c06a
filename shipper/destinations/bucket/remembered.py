"""What a shipper remembers of a bucket's log over a restart, in its state directory."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from logship import durable
from logship.bucket.keys import Place
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.errors import Code, LogshipError
from logship.identity import Incarnation
from logship.lsn import Lsn

log = structlog.get_logger(__name__)

HINT_NAME: Final = "bucket.json"
NO_CONTINUATION: Final = frozenset(
    {Code.PRIMARY_BEHIND, Code.NOT_IN_HISTORY, Code.TIMELINE_DIVERGED}
)
"""Reasons for a gap that mean: this primary did not write the log's end.  It was restored from
older data; or it is a copy, and the log is another's."""


class Parted(NamedTuple):
    """The primary is no continuation of a log."""

    place: Place
    """Where that was found; it is past once the log goes on."""
    code: str
    what: str

    def as_error(self, store: str) -> LogshipError:
        """What stands in the way of adding to the log in `store`."""
        code = Code(self.code) if self.code in NO_CONTINUATION else Code.PRIMARY_BEHIND
        return LogshipError(
            code,
            f"the log in {store} ends at {self.place.timeline}:{self.place.lsn}, with WAL that "
            f"this primary never wrote; nothing is added to it: {self.what}",
            "if this is the right primary, run `shipper seed` once it is past the segment in which "
            'the log ends; with bucket.role = "spill", which takes no seed, change bucket.url',
        )


class Remembered(NamedTuple):
    """What is known of a log from before."""

    place: Place
    """Everything before it is stored."""
    led_to_lsn: int = 0
    """As in `chain.Found`, when that was so."""
    parted: Parted | None = None


class _Parted(msgspec.Struct, frozen=True):
    timeline: int
    lsn: int
    step: int
    code: str
    what: str


class _Hint(msgspec.Struct, frozen=True, omit_defaults=True):
    store: str
    incarnation: str
    timeline: int
    lsn: int
    step: int
    led_to_lsn: int = 0
    parted: _Parted | None = None


def load_hint(file: Path, store: str, incarnation: Incarnation) -> Remembered | None:
    """Blocking.  None if there is none for that store and incarnation, or none that can be read:
    then the bucket is listed."""
    try:
        hint = json_decoder(_Hint).decode(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as error:
        log.warning("the last place in the bucket can't be read", error=str(error))
        return None
    if (hint.store, hint.incarnation) != (store, str(incarnation)):
        return None
    parted = None
    if hint.parted is not None:
        place = Place(hint.parted.timeline, Lsn(hint.parted.lsn), hint.parted.step)
        parted = Parted(place, hint.parted.code, hint.parted.what)
    place = Place(hint.timeline, Lsn(hint.lsn), hint.step)
    return Remembered(place, hint.led_to_lsn, parted)


def save_hint(file: Path, store: str, incarnation: Incarnation, known: Remembered) -> None:
    """Blocking.  Says it and goes on when it can't."""
    timeline, lsn, step = known.place
    parted = None
    if known.parted is not None:
        at, code, what = known.parted
        parted = _Parted(at.timeline, int(at.lsn), at.step, code, what)
    hint = _Hint(store, str(incarnation), timeline, int(lsn), step, known.led_to_lsn, parted)
    try:
        durable.write_file(file, msgspec.json.encode(hint) + b"\n")
    except OSError as error:
        log.warning("the last place in the bucket can't be written", error=str(error))

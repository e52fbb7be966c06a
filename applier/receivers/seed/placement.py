"""Puts a verified seed in the place of the last one, in steps that a crash can't confuse.

In an incarnation's directory, for each of `data` and `tablespaces`:

    X.seeding   arriving; worth nothing until all of it is verified and synced
    X           what a standby runs on
    X.old       what X was before the last swap, kept until the new standby runs
    seed.json   phase "swapping": the seed is complete, the swap must be finished
                phase "placed":   the swap is done; says what X came from

The steps of a swap, each durable before the next: (1) seed.json says "swapping"; for each X:
(2) an X.old of an earlier swap is removed, (3) X becomes X.old, (4) X.seeding becomes X;
(5) seed.json says "placed".  Before (1) a crash means that the seed never was; after it the
steps are gone through again, and each one sees from the names alone whether it was done: X
is away only between (3) and (4), X.seeding only after (4).

All of it blocks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

from applier.receivers.seed.unpacking import DATA, LOCATIONS_NAME, SEEDING_SUFFIX, TABLESPACES
from logship import durable
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.errors import Code, LogshipError

RECORD_NAME: Final = "seed.json"
OLD_SUFFIX: Final = ".old"
# The tablespaces first: a `data` in place then always finds its tablespaces in place.
_SWAPPED: Final = (TABLESPACES, DATA)

_log = structlog.get_logger(__name__)


class SeedPlaced(msgspec.Struct, frozen=True, kw_only=True):
    """A seed that is complete, verified against its manifest and durable."""

    seed_id: str
    timeline: int
    """Timeline that the backup ended on."""
    start_lsn: int
    """Replay begins here (the backup's checkpoint's redo position)."""
    end_lsn: int
    """Replay must reach this before the data is consistent."""
    bytes: int
    """Contents of all files."""
    files: int
    tablespaces: dict[int, str] = msgspec.field(default_factory=dict)
    """Location on the primary by OID."""


class _Record(msgspec.Struct, frozen=True):
    phase: Literal["swapping", "placed"]
    seed: SeedPlaced


def swap_in(directory: Path, seed: SeedPlaced) -> None:
    """Make `X.seeding` the `X` of `directory`, and X of before X.old.

    No server may run on `data`, and both `X.seeding` must be synced; if one is missing nothing
    is changed.  Done already, it changes nothing either.  Raises LogshipError (SEED_FAILED,
    DISK_FULL): `swap_in` again or `recover_placement` then goes on from there.
    """
    if not is_unfinished(directory) and (missing := _missing(directory)):
        if len(missing) == len(_SWAPPED) and read_placement(directory) == seed:
            return
        raise LogshipError(
            Code.SEED_FAILED,
            f"the seed {seed.seed_id} can't be swapped in: {missing[0]} is not there any more",
            "look for who else removes files there; a new seed starts by itself",
            retryable=True,
        )
    try:
        _write(directory, _Record("swapping", seed))
        _roll_forward(directory)
        _write(directory, _Record("placed", seed))
    except OSError as error:
        raise _failure(directory, "swapped in", error) from error


def recover_placement(directory: Path) -> SeedPlaced | None:
    """Finish what a crash interrupted; returns what `data` was seeded from, None if nothing.

    Call it when the applier starts, before anything starts or adopts a standby of
    `directory`, or later when no server runs on its `data`.  A swap that had begun is
    finished; a seed that had not come that far is removed and has to be sent from its start.
    Raises LogshipError (SEED_FAILED).
    """
    record = _read(directory)
    try:
        if record is not None and record.phase == "swapping":
            _roll_forward(directory)
            _write(directory, _Record("placed", record.seed))
            _log.warning(
                "finished putting a seed in place",
                directory=str(directory),
                seed=record.seed.seed_id,
            )
        else:
            _remove_arriving(directory)
    except OSError as error:
        raise _failure(directory, "recovered", error) from error
    return None if record is None else record.seed


def is_unfinished(directory: Path) -> bool:
    """Whether a swap has begun and not ended: `recover_placement` finishes it.

    Raises LogshipError (SEED_FAILED).
    """
    record = _read(directory)
    return record is not None and record.phase == "swapping"


def read_placement(directory: Path) -> SeedPlaced | None:
    """What `data` was seeded from; None before the first seed.  Changes nothing.

    Raises LogshipError (SEED_FAILED) if a swap is unfinished: `recover_placement` first.
    """
    record = _read(directory)
    if record is None:
        return None
    if record.phase != "placed":
        raise LogshipError(
            Code.SEED_FAILED,
            f"a seed in {directory} is not completely in place",
            "start the applier: it finishes this before anything else",
            retryable=True,
        )
    return record.seed


def discard_arriving(directory: Path) -> None:
    """Remove what there is of an unfinished seed.  Raises LogshipError (SEED_FAILED).

    Refuses (SEED_FAILED) while a swap is unfinished: that data may be the only one.
    """
    read_placement(directory)
    try:
        _remove_arriving(directory)
    except OSError as error:
        raise _failure(directory, "removed", error) from error


def discard_previous(directory: Path) -> None:
    """Remove `X.old`: for the caller to say that the standby runs on the new data.

    Interrupted, it leaves some of it; harmless to call again.  Raises LogshipError
    (SEED_FAILED).
    """
    read_placement(directory)
    try:
        for name in reversed(_SWAPPED):
            durable.remove_tree(directory / (name + OLD_SUFFIX))
    except OSError as error:
        raise _failure(directory, "cleared of its predecessor", error) from error


def tablespace_locations(directory: Path) -> dict[int, str]:
    """Where the primary has the tablespaces of `data`, by OID, as of the seed.

    Raises LogshipError (SEED_FAILED) if that is not known: there was no seed.
    """
    path = directory / TABLESPACES / LOCATIONS_NAME
    try:
        return json_decoder(dict[int, str]).decode(path.read_bytes())
    except (OSError, *UNREADABLE) as error:
        raise LogshipError(
            Code.SEED_FAILED,
            f"{path} can't be read: {error}",
            "it is written with every seed; start a new one",
        ) from error


def _missing(directory: Path) -> list[Path]:
    arriving = [directory / (name + SEEDING_SUFFIX) for name in _SWAPPED]
    return [path for path in arriving if not os.path.lexists(path)]


def _roll_forward(directory: Path) -> None:
    for name in _SWAPPED:
        current, old = directory / name, directory / (name + OLD_SUFFIX)
        arriving = directory / (name + SEEDING_SUFFIX)
        if not os.path.lexists(arriving):
            continue
        if os.path.lexists(current):
            durable.remove_tree(old)
            durable.rename(current, old)
        durable.rename(arriving, current)


def _remove_arriving(directory: Path) -> None:
    for name in _SWAPPED:
        arriving = directory / (name + SEEDING_SUFFIX)
        if os.path.lexists(arriving):
            durable.remove_tree(arriving)


def _write(directory: Path, record: _Record) -> None:
    durable.write_file(directory / RECORD_NAME, msgspec.json.encode(record))


def _read(directory: Path) -> _Record | None:
    path = directory / RECORD_NAME
    try:
        return json_decoder(_Record).decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as error:
        raise LogshipError(
            Code.SEED_FAILED,
            f"{path} can't be read: {error}",
            "nothing was changed; it is only ever replaced as a whole, so look at the disk; "
            "without the file the next seed starts from nothing",
        ) from error


def _failure(directory: Path, what: str, error: OSError) -> LogshipError:
    if error.errno in durable.DISK_FULL_ERRNOS:
        return LogshipError(
            Code.DISK_FULL,
            f"no room to have the seed in {directory} {what}",
            "make room; it goes on from where it stopped",
            retryable=True,
        )
    return LogshipError(
        Code.SEED_FAILED,
        f"the seed in {directory} can't be {what}: {error}",
        "look at the file system and its messages; it goes on from where it stopped",
        retryable=True,
    )

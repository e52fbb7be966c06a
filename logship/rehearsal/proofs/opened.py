"""All that is looked at on a server that was a standby and is open."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from logship.errors import LogshipError
from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.proofs.amcheck import look_with_amcheck
from logship.rehearsal.proofs.collations import look_at_collations
from logship.rehearsal.proofs.contents import look_at_contents
from logship.rehearsal.proofs.extensions import look_at_extensions
from logship.rehearsal.proofs.reference import Reference
from logship.rehearsal.site.server import Server

_Look = Callable[[Server, Reference], Observation]

_LOOKS: tuple[tuple[Proof, Symptom, _Look], ...] = (
    (Proof.CONTENTS, Symptom.CONTENTS, look_at_contents),
    (Proof.AMCHECK, Symptom.INDEXES, look_with_amcheck),
    (Proof.COLLATIONS, Symptom.CONNECT, look_at_collations),
    (Proof.EXTENSIONS, Symptom.EXTENSIONS, look_at_extensions),
)
"""In the order of `Proof`: amcheck makes an extension, so the rows are compared before."""

_A_WRITE = (
    "create table public.logship_rehearsal_write (id int primary key)",
    "insert into public.logship_rehearsal_write values (1)",
    "drop table public.logship_rehearsal_write",
)


def look_at_opened(
    opened: Server, reference: Reference, promoted: Observation
) -> tuple[Observation, ...]:
    """promoted: what `look_at_promoted` saw.  After it contents, amcheck, collations, extensions,
    where that was well; a look that can't be had has failed."""
    if promoted.result is not Result.PASSED:
        return (promoted, *not_looked_at("the server is not open for all"))
    return (promoted, *(_looked(opened, reference, *each) for each in _LOOKS))


def not_looked_at(why: str) -> tuple[Observation, ...]:
    """The looks at an opened server, where nothing was opened."""
    return tuple(Observation(proof, Result.NOT_RUN, why) for proof, _, _ in _LOOKS)


def not_promoted(why: str) -> tuple[Observation, ...]:
    """The same, where not even a promotion was tried."""
    return (Observation(Proof.PROMOTE, Result.NOT_RUN, why), *not_looked_at(why))


def look_at_promoted(opened: Server, said: str, began_at: float) -> Observation:
    """Whether every database can be entered, and takes a write.

    said: of the promotion, if all is well.  began_at: by `time.monotonic`.
    """
    symptom, why = Symptom.CONNECT, ""
    try:
        refused = opened.ask("entering")["refused"]
        why = "; ".join(
            f"{database} can't be entered: {each}" for database, each in refused.items()
        )
        if not why:
            symptom = Symptom.PROMOTE
            opened.sql(*_A_WRITE)
    except LogshipError as error:
        why = error.what
    seconds = time.monotonic() - began_at
    if why:
        return Observation(Proof.PROMOTE, Result.FAILED, why, frozenset({symptom}), seconds)
    return Observation(Proof.PROMOTE, Result.PASSED, said, seconds=seconds)


def _looked(
    opened: Server, reference: Reference, proof: Proof, symptom: Symptom, look: _Look
) -> Observation:
    began_at = time.monotonic()
    try:
        observed = look(opened, reference)
    except LogshipError as error:
        observed = Observation(proof, Result.FAILED, error.what, frozenset({symptom}))
    return replace(observed, seconds=time.monotonic() - began_at)

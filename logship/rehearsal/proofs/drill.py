"""The promotion of a copy of the recovery server, by the real command, and what is open then."""

from __future__ import annotations

import time

from logship.errors import LogshipError
from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.proofs.opened import look_at_opened, look_at_promoted, not_looked_at
from logship.rehearsal.proofs.reference import Reference
from logship.rehearsal.site.recovery import Recovery


def drill(
    recovery: Recovery, reference: Reference, incarnation: str = ""
) -> tuple[Observation, ...]:
    """Stop the recovery server well, copy it, start it again; promote the copy and look at it.

    reference: what the primary was like when all of it had been replayed here.  Nobody writes
    until the copy is made, else its rows are others.  incarnation: one that is kept from before.

    Raises LogshipError: the recovery server itself does not stop or start.
    """
    copy = recovery.stopped_copy()
    try:
        return promote_copy(copy, reference, incarnation)
    finally:
        copy.remove()


def promote_copy(
    copy: Recovery, reference: Reference, incarnation: str = ""
) -> tuple[Observation, ...]:
    """The same with a copy that is there and is the caller's to remove."""
    began_at = time.monotonic()
    try:
        copy.start()
        record = copy.promote(incarnation)
    except LogshipError as error:
        seconds = time.monotonic() - began_at
        symptoms = frozenset({Symptom.PROMOTE})
        failed = Observation(Proof.PROMOTE, Result.FAILED, str(error), symptoms, seconds)
        return (failed, *not_looked_at("no server was opened"))
    said = (
        f"opened timeline {record['opened_timeline']} at {record['opened_lsn']}, "
        f"promoted after {record['promote_seconds']:.1f} s, "
        f"first write after {record['first_write_seconds']:.1f} s"
    )
    promoted = look_at_promoted(copy.server, said, began_at)
    return look_at_opened(copy.server, reference, promoted)

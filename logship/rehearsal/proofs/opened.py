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


def look_at_opened(opened: Server, reference: Reference) -> tuple[Observation, ...]:
    """Contents, amcheck, collations, extensions; a look that can't be had has failed."""
    return tuple(_looked(opened, reference, *each) for each in _LOOKS)


def not_looked_at(why: str) -> tuple[Observation, ...]:
    """The same where nothing was opened."""
    return tuple(Observation(proof, Result.NOT_RUN, why) for proof, _, _ in _LOOKS)


def try_a_write(opened: Server) -> str:
    """Why the server takes no writes; "": it does."""
    try:
        opened.sql(
            "create table logship_rehearsal_write (id int primary key)",
            "insert into logship_rehearsal_write values (1)",
            "drop table logship_rehearsal_write",
        )
    except LogshipError as error:
        return error.what
    return ""


def _looked(
    opened: Server, reference: Reference, proof: Proof, symptom: Symptom, look: _Look
) -> Observation:
    began_at = time.monotonic()
    try:
        observed = look(opened, reference)
    except LogshipError as error:
        observed = Observation(proof, Result.FAILED, error.what, frozenset({symptom}))
    return replace(observed, seconds=time.monotonic() - began_at)

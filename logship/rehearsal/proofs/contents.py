"""Whether an opened standby has the primary's rows, goes on with its sequences, and verifies its
pages as the primary does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.proofs.listing import listed
from logship.rehearsal.proofs.reference import (
    Contents,
    Reference,
    SequenceState,
    contents_of,
)
from logship.rehearsal.site.server import Server


def look_at_contents(opened: Server, reference: Reference) -> Observation:
    """Raises LogshipError: the server can't be asked."""
    ((checksums,),) = opened.sql("show data_checksums")
    return compare(reference, contents_of(opened), str(checksums))


def compare(reference: Reference, found: Contents, checksums: str) -> Observation:
    """found, checksums: of the same server; checksums is its `data_checksums`.  Pure."""
    expected = reference.contents
    others = [
        *_other_tables(expected.tables, found.tables),
        *_other_sequences(expected.sequences, found.sequences),
    ]
    symptoms = {Symptom.CONTENTS} if others else set()
    said = [listed(others)] if others else []
    if checksums != reference.checksums:
        symptoms.add(Symptom.CHECKSUMS)
        said.append(f"data checksums are {checksums}, on the primary {reference.checksums}")
    if symptoms:
        return Observation(Proof.CONTENTS, Result.FAILED, "; ".join(said), frozenset(symptoms))
    well = f"{len(expected.tables)} tables are equal"
    if expected.sequences:
        well += f", sequences go on ({len(expected.sequences)})"
    return Observation(Proof.CONTENTS, Result.PASSED, well)


def _other_tables(expected: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            here, there = found.get(name, "not there"), expected.get(name, "none")
            yield f"{name}: {here}, on the primary {there}"


def _other_sequences(
    expected: Mapping[str, SequenceState], found: Mapping[str, SequenceState]
) -> Iterator[str]:
    for name in sorted(expected.keys() | found.keys()):
        primary, opened = expected.get(name), found.get(name)
        if primary is None or opened is None or not _goes_on(primary, opened):
            here = "not there" if opened is None else _told(opened)
            there = "none" if primary is None else _told(primary)
            yield f"sequence {name}: {here}, on the primary {there}"


def _goes_on(primary: SequenceState, opened: SequenceState) -> bool:
    """Whether it gives no number again, and is where the primary's WAL says.

    WAL has the state that comes after `log_cnt` more numbers (`nextval_internal` in sequence.c), a
    seed the state that it found.  So an opened server may be ahead, and then needs WAL by so much
    the sooner: it is logged to the same number.
    """
    if (primary.increment, primary.is_called) != (opened.increment, opened.is_called):
        return False
    ahead, rest = divmod(opened.last_value - primary.last_value, primary.increment)
    return not rest and 0 <= ahead <= primary.log_cnt and opened.log_cnt == primary.log_cnt - ahead


def _told(state: SequenceState) -> str:
    if not state.is_called:
        return f"begins with {state.last_value}"
    logged = state.last_value + state.log_cnt * state.increment
    return f"at {state.last_value} (step {state.increment}, logged to {logged})"

"""Whether an opened standby orders text as its primary does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from logship.rehearsal.inside.order import sample
from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.proofs.listing import listed
from logship.rehearsal.proofs.reference import Reference
from logship.rehearsal.site.server import Server


def look_at_collations(opened: Server, reference: Reference) -> Observation:
    """Raises LogshipError: the server can't be asked."""
    return compare_orders(reference.orders, opened.ask("order")["orders"])


def compare_orders(
    expected: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]
) -> Observation:
    """Both: as `inside.order` answers.  Pure."""
    said: list[str] = []
    symptoms: set[Symptom] = set()
    for name, primary in sorted(expected.items()):
        for symptom, words in _differences(name, primary, found.get(name)):
            symptoms.add(symptom)
            said.append(words)
    if not symptoms:
        unknown = [f"{name}: {each['error']}" for name, each in expected.items() if "error" in each]
        if len(unknown) == len(expected):
            why = f"the primary orders no text: {listed(unknown) or 'none is there'}"
            return Observation(Proof.COLLATIONS, Result.NOT_RUN, why)
        count = f"{len(expected) - len(unknown)} collations order {len(sample())} texts alike"
        if unknown:
            count += f"; not on the primary: {listed(unknown)}"
        return Observation(Proof.COLLATIONS, Result.PASSED, count)
    return Observation(Proof.COLLATIONS, Result.FAILED, listed(said), frozenset(symptoms))


def _differences(
    name: str, primary: Mapping[str, Any], opened: Mapping[str, Any] | None
) -> Iterator[tuple[Symptom, str]]:
    if "error" in primary:
        return
    if opened is None:
        yield Symptom.ORDER, f"{name}: is not there"
        return
    if "error" in opened:
        is_database = "/" not in name
        symptom = Symptom.CONNECT if is_database else Symptom.ORDER
        yield symptom, f"{name}: {opened['error']}"
        return
    recorded, actual = opened["recorded"], opened["actual"]
    # Where the primary's own library is another than recorded, nothing changes.
    as_on_primary = (primary["recorded"], primary["actual"]) == (recorded, actual)
    if recorded and recorded != actual and not as_on_primary:
        yield Symptom.COLLATION_VERSION, f"{name}: recorded {recorded}, here {actual or 'none'}"
    if opened["order"] != primary["order"]:
        yield Symptom.ORDER, f"{name}: {_first_difference(primary['order'], opened['order'])}"


def _first_difference(primary: list[int], opened: list[int]) -> str:
    texts = sample()
    for expected, found in zip(primary, opened, strict=True):
        if expected != found:
            return f"orders {texts[found]!r} before {texts[expected]!r}, the primary after it"
    return "orders text otherwise"

"""What the proofs of a rehearsal say of what was found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from logship.rehearsal.inside.order import sample
from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.proofs import amcheck, collations, contents, extensions, flow
from logship.rehearsal.proofs.reference import Contents, Reference, SequenceState
from logship.rehearsal.site.recovery import Progress

CONTENTS = Contents({"app.public.t": "2 abc"}, {})
REFERENCE = Reference("0/3000060", CONTENTS, {}, "on", "pg_stat_statements")
ORDER = {"recorded": "2.36", "actual": "2.36", "order": [0, 1, 2]}


def seen(observation: Observation) -> tuple[Result, set[Symptom]]:
    return observation.result, set(observation.symptoms)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress(0.1, 0.2), (Result.PASSED, set())),
        (Progress(None, None, said="the link is lost"), (Result.FAILED, {Symptom.LINK})),
        (Progress(0.1, None, runs=True), (Result.FAILED, {Symptom.REPLAY})),
        (Progress(0.1, None, said="FATAL"), (Result.FAILED, {Symptom.START})),
        (Progress(0.1, None, held=True), (Result.NOT_RUN, set())),
        (Progress(0.1, 0.2, held=True), (Result.NOT_RUN, set())),
        (Progress(None, None, held=True), (Result.FAILED, {Symptom.LINK})),
    ],
)
def test_flow(progress: Progress, expected: tuple[Result, set[Symptom]]) -> None:
    observation = flow.judge(progress)
    assert seen(observation) == expected
    assert observation.proof is Proof.FLOW
    assert progress.said in observation.said


def test_equal_contents_pass() -> None:
    assert seen(contents.compare(REFERENCE, REFERENCE.contents, "on")) == (Result.PASSED, set())


def test_contents_that_differ_are_named() -> None:
    observation = contents.compare(REFERENCE, Contents({"app.public.u": "1 x"}, {}), "on")
    assert seen(observation) == (Result.FAILED, {Symptom.CONTENTS})
    assert "app.public.t: not there, on the primary 2 abc" in observation.said
    assert "app.public.u: 1 x, on the primary none" in observation.said


def test_many_tables_that_differ_are_counted() -> None:
    tables = {f"t{number}": "1 x" for number in range(9)}
    reference = replace(REFERENCE, contents=Contents(tables, {}))
    assert contents.compare(reference, Contents({}, {}), "on").said.endswith("; and 4 more")


def sequences_seen(primary: SequenceState | None, opened: SequenceState | None) -> Observation:
    on_both = [
        Contents({}, {"app.public.ids": state} if state else {}) for state in (primary, opened)
    ]
    return contents.compare(replace(REFERENCE, contents=on_both[0]), on_both[1], "on")


UP = SequenceState(last_value=7, log_cnt=26, increment=1, is_called=True)
DOWN = SequenceState(last_value=-10, log_cnt=31, increment=-5, is_called=True)
NEW = SequenceState(last_value=1, log_cnt=0, increment=1, is_called=False)


@pytest.mark.parametrize(
    ("primary", "opened"),
    [
        (UP, UP),  # a seed has it so
        (UP, UP._replace(last_value=33, log_cnt=0)),  # and WAL so
        (UP, UP._replace(last_value=9, log_cnt=24)),
        (DOWN, DOWN),
        (DOWN, DOWN._replace(last_value=-165, log_cnt=0)),
        (NEW, NEW),
    ],
)
def test_sequences_that_go_on_where_the_wal_says_pass(
    primary: SequenceState, opened: SequenceState
) -> None:
    observation = sequences_seen(primary, opened)
    assert seen(observation) == (Result.PASSED, set())
    assert observation.said == "0 tables are equal, sequences go on (1)"


@pytest.mark.parametrize(
    ("primary", "opened"),
    [
        (UP, UP._replace(last_value=6, log_cnt=27)),  # would give 7 again
        (UP, UP._replace(last_value=34, log_cnt=0)),  # further than anything logged
        (UP, UP._replace(last_value=32, log_cnt=0)),  # the last record of WAL is missing
        (UP, UP._replace(last_value=7, log_cnt=0)),
        (UP, UP._replace(increment=2)),
        (UP, NEW),
        (NEW, NEW._replace(is_called=True)),
        (NEW, NEW._replace(last_value=2)),
        (DOWN, DOWN._replace(last_value=-5, log_cnt=32)),
        (DOWN, DOWN._replace(last_value=-17, log_cnt=30)),
        (DOWN, DOWN._replace(last_value=-170, log_cnt=0)),
        (UP, None),
        (None, UP),
    ],
)
def test_sequences_that_do_not_are_named(
    primary: SequenceState | None, opened: SequenceState | None
) -> None:
    observation = sequences_seen(primary, opened)
    assert seen(observation) == (Result.FAILED, {Symptom.CONTENTS})
    assert observation.said.startswith("sequence app.public.ids: ")


def test_where_a_sequence_is_can_be_read() -> None:
    assert sequences_seen(UP, NEW).said == (
        "sequence app.public.ids: begins with 1, on the primary at 7 (step 1, logged to 33)"
    )
    assert sequences_seen(UP, None).said.startswith("sequence app.public.ids: not there, on the")


def test_other_data_checksums_are_a_fault_of_their_own() -> None:
    observation = contents.compare(REFERENCE, REFERENCE.contents, "off")
    assert seen(observation) == (Result.FAILED, {Symptom.CHECKSUMS})
    assert observation.said == "data checksums are off, on the primary on"


def test_amcheck() -> None:
    found = {"indexes": 3, "tables": 2, "faults": [], "lacking": []}
    assert seen(amcheck.judge(found)) == (Result.PASSED, set())
    lacking = {**found, "lacking": ["app: no such extension"]}
    assert seen(amcheck.judge(lacking)) == (Result.NOT_RUN, set())
    faulty = {**lacking, "faults": [f"index {number}" for number in range(7)]}
    observation = amcheck.judge(faulty)
    assert seen(observation) == (Result.FAILED, {Symptom.INDEXES})
    assert "index 4; and 2 more" in observation.said


@pytest.mark.parametrize(
    ("primary", "opened", "expected"),
    [
        (ORDER, ORDER, set()),
        (ORDER, {**ORDER, "actual": "2.41"}, {Symptom.COLLATION_VERSION}),
        (ORDER, {**ORDER, "actual": ""}, {Symptom.COLLATION_VERSION}),
        (ORDER, {**ORDER, "order": [0, 2, 1]}, {Symptom.ORDER}),
        # Nothing is recorded: C, and databases of 14.
        ({**ORDER, "recorded": ""}, {**ORDER, "recorded": "", "actual": "2.41"}, set()),
        # So it was on the primary before: nothing changes.
        ({**ORDER, "actual": "2.41"}, {**ORDER, "actual": "2.41"}, set()),
        (ORDER, None, {Symptom.ORDER}),
    ],
)
def test_orders(
    primary: dict[str, object], opened: dict[str, object] | None, expected: set[Symptom]
) -> None:
    found = {} if opened is None else {"app/public.de": opened}
    observation = collations.compare_orders({"app/public.de": primary}, found)
    assert observation.symptoms == expected
    assert observation.result is (Result.FAILED if expected else Result.PASSED)


def test_what_can_not_be_used_is_told_apart() -> None:
    error = {"error": "no such locale"}
    observation = collations.compare_orders(
        {"app": ORDER, "app/public.de": ORDER}, {"app": error, "app/public.de": error}
    )
    assert observation.symptoms == {Symptom.CONNECT, Symptom.ORDER}


def test_the_first_texts_in_another_order_are_shown() -> None:
    texts = sample()
    found = {"app": {**ORDER, "order": [0, 2, 1]}}
    said = collations.compare_orders({"app": ORDER}, found).said
    assert said == f"app: orders {texts[2]!r} before {texts[1]!r}, the primary after it"


def test_the_sample_is_large_fixed_and_fit_for_postgresql() -> None:
    texts = sample()
    assert texts == sample()
    assert len(texts) == len(set(texts)) > 5000
    assert {"co-op", "coop", "résumé", "1-1", "11"} <= set(texts)
    assert "\0" not in "".join(texts)
    assert "".join(texts).encode()  # no surrogate is among them


def test_extensions() -> None:
    assert seen(extensions.judge({"libraries": 2, "unloadable": []})) == (Result.PASSED, set())
    observation = extensions.judge({"libraries": 2, "unloadable": ["app: no such file"]})
    assert seen(observation) == (Result.FAILED, {Symptom.EXTENSIONS})


def test_what_the_primary_can_not_order_is_not_said_to_be_alike() -> None:
    broken = {"error": "no such collation"}
    nothing = collations.compare_orders({"app": broken}, {"app": broken})
    assert seen(nothing) == (Result.NOT_RUN, set())
    some = collations.compare_orders({"app": ORDER, "app/x": broken}, {"app": ORDER})
    assert seen(some) == (Result.PASSED, set())
    assert some.said.startswith("1 collations")
    assert "no such collation" in some.said

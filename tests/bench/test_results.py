"""build/bench.json: the keys that others read, and runs in parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import results
from tests.bench.catalog import CATALOG, KEYS, MEASURES
from tests.bench.measures import MEASURERS
from tests.bench.results import Outcome
from tests.bench.samples import Figure

ABOUT = {"measured_at": "2026-01-01 00:00 UTC", "seconds": 1.0, "commit": "c", "busy_before": 0.0}
FAILED_AT = "2026-01-01 00:01 UTC"


def outcome(name: str, *values: float) -> Outcome:
    figure = Figure(sorted(values)[len(values) // 2], min(values), max(values), len(values))
    return Outcome({name: figure}, [{"value": value} for value in values], ["a note"])


def test_every_key_that_others_read_is_a_figure_of_a_measure_that_runs() -> None:
    by_name = {row.name: row for row in CATALOG}
    assert len(by_name) == len(CATALOG), "each figure has one name"
    assert {by_name[key].measure for key in KEYS} <= MEASURERS.keys()
    assert MEASURERS.keys() == MEASURES.keys()
    assert {row.measure for row in CATALOG} == MEASURES.keys()


def test_the_keys_are_there_before_anything_was_measured() -> None:
    document = results.empty()
    assert {key: document[key] for key in KEYS} == dict.fromkeys(KEYS)


def test_a_measured_median_stands_under_its_key() -> None:
    document = results.merge(results.empty(), "seed", outcome("seed_ratio", 0.8, 0.9, 1.1), ABOUT)
    assert document["seed_ratio"] == 0.9
    assert document["rate_ratio"] is None
    assert results.figures(document)["seed_ratio"] == Figure(0.9, 0.8, 1.1, 3)


def test_a_document_has_one_commit_if_all_its_measures_have_it() -> None:
    assert results.empty()["commit"] is None
    document = results.merge(results.empty(), "seed", outcome("seed_ratio", 0.8), ABOUT)
    document = results.merge(document, "rate", outcome("rate_ratio", 0.7), ABOUT)
    assert document["commit"] == "c"
    other = {**ABOUT, "commit": "d"}
    document = results.merge(document, "rate", outcome("rate_ratio", 0.7), other)
    assert document["commit"] is None
    assert results.fail(document, "seed", "TimeoutError: no seed", FAILED_AT)["commit"] == "d"


def test_measuring_again_replaces_one_measure_and_keeps_the_others() -> None:
    document = results.merge(results.empty(), "seed", outcome("seed_ratio", 0.8), ABOUT)
    document = results.merge(document, "rate", outcome("rate_ratio", 0.7), ABOUT)
    document = results.merge(document, "seed", outcome("seed_ratio", 0.95), ABOUT)
    assert (document["seed_ratio"], document["rate_ratio"]) == (0.95, 0.7)


def test_a_failed_measure_leaves_no_older_figure_behind() -> None:
    document = results.merge(results.empty(), "seed", outcome("seed_ratio", 0.8), ABOUT)
    document = results.fail(document, "seed", "TimeoutError: no seed", FAILED_AT)
    assert document["seed_ratio"] is None
    assert document["failures"] == {"seed": "TimeoutError: no seed"}
    assert document["failed_at"] == {"seed": FAILED_AT}
    document = results.merge(document, "seed", outcome("seed_ratio", 0.9), ABOUT)
    assert document["failures"] == document["failed_at"] == {}


def test_a_figure_that_is_not_in_the_catalogue_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="seed has no figures"):
        results.merge(results.empty(), "seed", outcome("rate_ratio", 1.0), ABOUT)


def test_a_saved_document_is_loaded_as_it_was(tmp_path: Path) -> None:
    document = results.merge(results.empty(), "seed", outcome("seed_ratio", 0.8), ABOUT)
    path = tmp_path / "build" / "bench.json"
    results.save(path, document)
    assert results.load(path) == document
    assert [each.name for each in path.parent.iterdir()] == ["bench.json"]


@pytest.mark.parametrize("content", [None, "", "{", json.dumps({"format": 0})])
def test_a_file_that_is_missing_broken_or_of_another_format_starts_anew(
    content: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "bench.json"
    if content is not None:
        path.write_text(content)
    assert results.load(path) == results.empty()

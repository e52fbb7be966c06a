"""What people see: the table, the documentation's section, the chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.bench import page, results
from tests.bench.catalog import CATALOG, MEASURES
from tests.bench.chart import chart
from tests.bench.results import Document, Outcome
from tests.bench.samples import Figure

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
SVG = "{http://www.w3.org/2000/svg}"
ABOUT: dict[str, Any] = {
    "measured_at": "2026-01-01 00:00 UTC",
    "seconds": 61.5,
    "commit": "abc1234",
    "busy_before": 0.03,
}

EARLIER, LATER = "2025-12-31 23:59 UTC", "2026-01-01 00:01 UTC"


def full_document(value: float = 1.25) -> Document:
    document: dict[str, Any] = results.empty()
    document |= {"machine": {"CPU": "2 × <fast> & small"}, "software": {"PostgreSQL": "15.18"}}
    for measure in MEASURES:
        figures = {
            row.name: Figure(value, value / 2, value * 2, 3)
            for row in CATALOG
            if row.measure == measure
        }
        document = results.merge(document, measure, Outcome(figures, [], ["told"]), ABOUT)
    return document


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.04123, "0.0412"),
        (0.9996, "1.00"),
        (1.2345, "1.23"),
        (9.999, "10.0"),
        (99.96, "100"),
        (248.4, "248"),
        (1152.0, "1152"),
        (0.0000001, "0.000000"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert page.number(value) == text


def test_an_aim_is_reached_on_its_good_side_only() -> None:
    document = full_document(1.0)
    aims = {line.label: line.aim for measure in MEASURES for line in page.lines(document, measure)}
    assert aims["rate, Logship ÷ native"] == "≥ 0.8: reached"
    assert aims["backlog in the store ÷ native"] == "≥ 1.25: missed"
    assert aims["p50, Logship ÷ native"] == "≤ 1.5: reached"
    assert aims["CPU a GB, shipper ÷ pgBackRest"] == "≤ 0.6: missed"
    assert aims["native p50"] == ""


def test_the_table_shows_figures_notes_and_failures() -> None:
    document = results.fail(full_document(), "seed", "TimeoutError: no seed", LATER)
    text = page.table(document, list(MEASURES))
    assert "p50, Logship ÷ native" in text
    assert "0.625 – 2.50" in text
    assert "note: told" in text
    assert "Seeding: FAILED: TimeoutError: no seed" in text


def test_the_section_holds_every_figure_and_when_it_was_measured() -> None:
    text = page.section(full_document())
    for row in CATALOG:
        assert f"| {row.label} | **1.25 {row.unit}** |" in text
    assert text.count("Measured 2026-01-01 00:00 UTC at commit abc1234 in 62 s") == len(MEASURES)
    assert "the machine was 3% busy" in text


def test_the_section_says_what_was_not_measured() -> None:
    assert "Not measured yet" in page.section(results.empty())
    document = results.fail(full_document(), "seed", "TimeoutError: no seed", LATER)
    assert "No result: TimeoutError: no seed." in page.section(document)


def test_only_the_section_between_the_markers_is_replaced() -> None:
    before = f"# Title\n\n{page.BEGIN}\nOBSOLETE\n{page.END}\n\nafter\n"
    text = page.replace_section(before, full_document())
    assert text.startswith("# Title\n\n" + page.BEGIN)
    assert text.endswith(page.END + "\n\nafter\n")
    assert "OBSOLETE" not in text
    assert page.replace_section(text, full_document()) == text


def test_a_result_that_only_the_page_has_stays() -> None:
    text = page.replace_section(f"{page.BEGIN}{page.END}", full_document(1.25))
    missing = full_document(3.75)
    del missing["measures"]["seed"]
    after = page.replace_section(text, missing)
    assert after.count("| rate, Logship ÷ pg_basebackup | **1.25 ×** |") == 1
    assert "| rate, Logship ÷ native | **3.75 ×** |" in after
    assert page.replace_section(after, missing) == after
    assert page.replace_section(text, results.empty()).count("**1.25 ") == text.count("**1.25 ")


def test_a_result_of_the_page_stays_unless_the_measure_failed_since() -> None:
    text = page.replace_section(f"{page.BEGIN}{page.END}", full_document())
    for failed_at in (ABOUT["measured_at"], LATER):
        failed = results.fail(full_document(), "seed", "TimeoutError: no seed", failed_at)
        after = page.replace_section(text, failed)
        assert "pg_basebackup | **" not in after
        assert "No result: TimeoutError: no seed." in after
    failed = results.fail(full_document(), "seed", "TimeoutError: no seed", EARLIER)
    assert page.replace_section(text, failed) == text
    del failed["failed_at"]
    assert page.replace_section(text, failed) == text, "as it was written without times"


def test_a_result_of_the_page_stays_until_there_is_a_later_one() -> None:
    text = page.replace_section(f"{page.BEGIN}{page.END}", full_document(1.25))
    document = full_document(3.75)
    document["measures"]["seed"]["measured_at"] = EARLIER
    after = page.replace_section(text, document)
    assert "| rate, Logship ÷ pg_basebackup | **1.25 ×** |" in after
    assert after.count("**1.25 ") == sum(row.measure == "seed" for row in CATALOG)
    document["measures"]["seed"]["measured_at"] = LATER
    assert "**1.25 " not in page.replace_section(text, document)


@pytest.mark.parametrize("text", ["", page.BEGIN, f"{page.BEGIN}{page.END}{page.BEGIN}{page.END}"])
def test_a_page_without_its_markers_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match="marker"):
        page.replace_section(text, results.empty())


def test_the_documentation_has_its_markers() -> None:
    page.replace_section(DOCUMENTATION.read_text(encoding="utf-8"), results.empty())


@pytest.mark.parametrize("value", [0.01, 0.9, 1.0, 37.5])
def test_the_chart_is_well_formed_and_shows_every_ratio_inside(value: float) -> None:
    root = ElementTree.fromstring(chart(full_document(value)))
    assert root.tag == f"{SVG}svg"
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    dots = root.findall(f"{SVG}circle")
    assert len(dots) == sum(row.is_ratio for row in CATALOG)
    for dot in dots:
        assert 0 < float(dot.get("cx", -1)) < width
        assert 0 < float(dot.get("cy", -1)) < height


def test_the_chart_of_nothing_says_so() -> None:
    root = ElementTree.fromstring(chart(results.empty()))
    assert any("nothing was measured" in (text.text or "") for text in root.iter(f"{SVG}text"))

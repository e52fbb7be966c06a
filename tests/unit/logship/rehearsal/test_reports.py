"""One report in four forms: what each tells, and what none of them gives away."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from logship.errors import UsageError
from logship.rehearsal.outcome import Observation, Outage, Proof, Report, Result, Verdict
from logship.rehearsal.reports.document import document_of
from logship.rehearsal.reports.html import check_html_can_be_made, html_page
from logship.rehearsal.reports.junit import junit_xml
from logship.rehearsal.reports.table import _printable, table_lines
from logship.rehearsal.reports.words import summary
from tests.support.sample_report import WELL, bad_report, good_report, refused_report

MISSED = Observation(Proof.PROMOTE, Result.NOT_RUN, "no copy")
LACKING = Observation(Proof.AMCHECK, Result.NOT_RUN, "amcheck can't be had: app: no such file")


def with_last(report: Report, **changes: Any) -> Report:
    """The report with another last step."""
    return replace(report, steps=(*report.steps[:-1], replace(report.steps[-1], **changes)))


def lacking_report() -> Report:
    """All well, but that the last step has no amcheck."""
    report = good_report()
    seen = tuple(
        LACKING if each.proof is Proof.AMCHECK else each for each in report.steps[-1].observations
    )
    return with_last(report, observations=seen)


def unseen_report() -> Report:
    """The second step was made, and then a machine did not answer."""
    report = good_report()
    unseen = replace(report.steps[1], observations=(), outage=Outage(), not_seen="no answer")
    last = replace(report.steps[2], verdict=Verdict(), observations=(), not_run="a step before it")
    return replace(report, steps=(report.steps[0], unseen, last))


def table(report: Report) -> list[str]:
    return [line.text for line in table_lines(report)]


def test_the_summary_says_where_protection_ends() -> None:
    assert summary(good_report()) == "protection would survive"
    assert summary(bad_report()) == (
        "protection would break: held after primary: shared_preload_libraries = pg_stat_statements"
    )
    assert summary(refused_report()) == (
        "protection would break: standby: max_connections = 10 is refused"
    )
    report = good_report()
    left_out = replace(report.steps[-1], not_run="this host has one operating system")
    assert summary(replace(report, steps=(*report.steps[:-1], left_out))) == (
        "not shown whether protection would survive: 1 of 2 steps could not be made"
    )
    assert summary(replace(report, steps=(report.steps[0], left_out))) == (
        "not shown whether protection would survive: the step could not be made"
    )
    assert summary(replace(report, steps=())) == "nothing was rehearsed"


def test_the_table_of_a_good_rehearsal_has_a_row_for_each_step() -> None:
    _, header, start, standby, primary, *rest = table(good_report())
    assert header.split()[:3] == ["STEP", "CHECK", "FLOW"]
    assert " ".join(start.split()) == (
        "0 before the first step pass ok ok ok ok ok ok - - protected"
    )
    assert "standby: image postgres:16.14" in standby
    assert primary.split()[-5:] == ["1.2", "s", "2.5", "s", "protected"]
    assert rest[-1] == "protection would survive (docker, 92 s)"
    assert len({len(line.rpartition("  ")[0]) for line in (start, standby, primary)}) == 1


@pytest.mark.parametrize("report", [good_report(), bad_report(), refused_report()])
def test_the_table_fits_a_terminal(report: Report) -> None:
    wide = table(report)
    assert [line.text for line in table_lines(report, 200)] == wide
    lines = [line.text for line in table_lines(report, 80)]
    header, *rows = lines[1 : len(report.steps) + 2]
    assert header.split()[:3] == ["STEP", "CHECK", "PROOFS"]
    assert max(map(len, (header, *rows))) <= 80
    for number, step in enumerate(report.steps):
        assert any(line.startswith(f"{number}  {step.title}") for line in lines)


def test_what_servers_said_in_several_lines_is_told_in_one() -> None:
    assert _printable("refused\r\n\tIs it running?  \x1b[1m") == "refused Is it running?  ?[1m"


def test_a_narrow_table_counts_the_proofs() -> None:
    assert "pass   6 ok " in table_lines(good_report(), 80)[2].text
    assert " 1 FAILED " in table_lines(refused_report(), 80)[2].text


def test_the_table_tells_what_went_wrong() -> None:
    text = "\n".join(table(bad_report()))
    for part in (
        "1  standby: image registry.example/postgres:16.14-<bookworm>",
        "   durable again after 0.4 s, replayed again after 6.1 s, at most exposed 16.0 MB",
        "   check, warn: known-bad-minors (16.9 / 16.14)",
        "      take 16.15",
        "   finding against the rules: known-bad-minors warned for nothing",
        "   check, block: preload-libraries (pg_stat_statements / -)",
        "   the applier holds the standby; what follows was tried on a copy",
        "   WAL flows and is applied: failed (start)",
        '      FATAL:  could not access file "pg_stat_<statements>"',
        "   not run: a step before it broke protection",
        "; 1 finding against the rules",
    ):
        assert part in text
    assert "\x1b" not in text
    assert "pass:" not in text
    refused = "\n".join(table(refused_report()))
    assert "   refused: max_connections is the primary's" in refused
    assert "   the applier goes on without it; what follows was tried on a copy" in refused
    broken = replace(refused_report().steps[0], verdict=Verdict(), refused="")
    assert "BROKEN" in table(replace(refused_report(), steps=(broken,)))[2]


def test_a_finding_of_several_steps_is_told_once() -> None:
    report = bad_report()
    again = replace(report.steps[0], findings=report.steps[1].findings)
    report = replace(report, steps=(again, *report.steps[1:]))
    assert len(report.findings) == 2
    assert table(report)[-1].endswith("; 1 finding against the rules")
    assert '<span class="faint">(step 0, 1)</span>' in html_page(report)


def test_of_a_proof_that_was_made_twice_the_worse_counts() -> None:
    report = good_report()
    lost = Observation(Proof.PROMOTE, Result.FAILED, "of the old cluster: it is not opened")
    twice = replace(report.steps[2], observations=(lost, *report.steps[2].observations))
    report = replace(report, steps=(*report.steps[:2], twice))
    assert table(report)[4].split()[6:9] == ["FAILED", "ok", "ok"]
    assert html_page(report).count('<td class="bad">FAILED</td>') == 2
    cases = list(ElementTree.fromstring(junit_xml(report)).iter("testcase"))
    promotions = [each for each in cases if (each.get("name") or "").startswith("promotion")][-2:]
    assert [each.get("name") for each in promotions] == ["promotion", "promotion 2"]
    assert [each.find("failure") is None for each in promotions] == [False, True]


def test_a_long_log_is_cut_in_the_table_alone() -> None:
    report = bad_report()
    first, *others = report.steps[2].observations
    long = replace(first, said="\n".join(f"line {n}" for n in range(100)))
    outcome = replace(report.steps[2], observations=(long, *others))
    report = replace(report, steps=(outcome,))
    assert "      … 92 more lines: --json has them" in table(report)
    assert "line 99" in json.dumps(document_of(report))


def test_the_document_is_json_and_says_all() -> None:
    document = json.loads(json.dumps(document_of(bad_report())))
    assert document["protected"] is False
    assert document["begun_at"] == "2026-03-01 12:00:00Z"
    assert [step["state"] for step in document["steps"]] == [
        "protected",
        "protected",
        "held",
        "not run",
    ]
    held = document["steps"][2]
    assert held["kind"] == "parameters"
    assert held["check"]["outcome"] == "block"
    assert held["check"]["rules"][0]["rule"] == "preload-libraries"
    assert held["observations"][0]["symptoms"] == ["start"]
    assert held["outage"]["standby_seconds"] is None
    assert document["findings"] == [
        {"rule": "known-bad-minors", "text": "known-bad-minors warned for nothing"}
    ]
    assert document["plan"]["database"]["parameters"] == {"max_connections": "200"}
    assert document["plan"]["steps"][0]["title"].startswith("standby: image registry")


def test_junit_has_a_case_for_each_step_and_proof() -> None:
    suite = ElementTree.fromstring(junit_xml(bad_report())).find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped", "errors")} == {
        "tests": "28",
        "failures": "2",
        "skipped": "11",
        "errors": "1",
    }
    cases = {(case.get("classname"), case.get("name")): case for case in suite.iter("testcase")}
    assert len(cases) == 28
    step = "rehearsal.2 primary: shared_preload_libraries = pg_stat_statements"
    failure = cases[step, "protection"].find("failure")
    assert failure is not None
    assert failure.get("message") == "held: the applier holds the standby: preload-libraries"
    flow = cases[step, "WAL flows and is applied"].find("failure")
    assert flow is not None
    assert (flow.get("message"), flow.get("type")) == ("the server ended:", "start")
    assert cases[step, "amcheck"].find("skipped") is not None
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert properties["finding.known-bad-minors"] == (
        "known-bad-minors warned for nothing (step 1)"
    )
    good = ElementTree.fromstring(junit_xml(good_report()))
    assert (good.get("tests"), good.get("failures"), good.get("skipped")) == ("21", "0", "0")
    assert good.get("errors") == "0"


@pytest.mark.parametrize(
    ("report", "kind", "message"),
    [
        (unseen_report(), "not-seen", "no answer"),
        (with_last(unseen_report(), not_run="again"), "not-seen", "no answer"),
        (
            with_last(good_report(), observations=(), not_run="no such image"),
            "not-run",
            "no such image",
        ),
    ],
)
def test_junit_is_red_where_nobody_knows(report: Report, kind: str, message: str) -> None:
    assert not report.protected
    root = ElementTree.fromstring(junit_xml(report))
    assert (root.get("failures"), root.get("errors")) == ("0", "1")
    (error,) = root.iter("error")
    assert (error.get("type"), error.get("message")) == (kind, message)


def test_a_failure_without_a_failed_proof_says_why() -> None:
    suite = ElementTree.fromstring(junit_xml(with_last(good_report(), refused="too few")))
    (failure,) = suite.iter("failure")
    assert failure.get("message") == "refused: too few"


@pytest.mark.parametrize(
    ("observations", "why"),
    [
        ((), "nothing was looked at"),
        ((MISSED,), "promotion not looked at: no copy"),
        ((MISSED, *WELL), "promotion not looked at: no copy"),
    ],
)
def test_what_was_needed_and_not_looked_at_is_no_break(
    observations: tuple[Observation, ...], why: str
) -> None:
    report = with_last(good_report(), observations=observations)
    assert not report.protected
    assert summary(report) == (
        "not shown whether protection would survive: "
        "what came of primary: image postgres:16.14 could not be looked at"
    )
    row = table(report)[4]
    assert row.endswith("not seen")
    assert row.split()[6] == "-", "what is not known of one cluster is not known"
    step = document_of(report)["steps"][-1]
    assert (step["state"], step["not_seen"]) == ("not seen", why)
    suite = ElementTree.fromstring(junit_xml(report))
    (error,) = suite.iter("error")
    assert (error.get("type"), error.get("message")) == ("not-seen", why)
    assert not list(suite.iter("failure"))


def test_a_start_that_could_not_be_looked_at_is_told_as_the_start() -> None:
    report = good_report()
    report = replace(report, steps=(replace(report.steps[0], observations=()),))
    assert summary(report) == (
        "not shown whether protection would survive: "
        "the state before the first step could not be looked at"
    )


def test_what_was_begun_and_failed_is_not_told_as_made() -> None:
    why = "it was begun and failed: the server does not start"
    report = with_last(good_report(), observations=(), not_seen=why, unfinished=True)
    assert summary(report) == (
        "not shown whether protection would survive: "
        "primary: image postgres:16.14 was begun and failed"
    )
    assert table(report)[4].endswith("not seen")
    assert f"   {why}" in table(report)
    assert "It was begun and failed: the server does not start" in html_page(report)
    step = document_of(report)["steps"][-1]
    assert (step["state"], step["not_seen"], step["not_run"]) == ("not seen", why, None)
    (error,) = ElementTree.fromstring(junit_xml(report)).iter("error")
    assert (error.get("type"), error.get("message")) == ("not-seen", why)
    for text in ("\n".join(table(report)), html_page(report)):
        assert "made, but" not in text.lower()


def test_what_was_refused_and_not_tried_is_not_told_as_made() -> None:
    report = with_last(refused_report(), observations=(), not_seen="no answer")
    lines = table(report)
    assert lines[2].endswith("refused")
    assert "   what would come of it could not be tried: no answer" in lines
    assert "   the applier goes on without it" in lines
    page = html_page(report)
    assert "What would come of it could not be tried: no answer" in page
    assert "The applier goes on without it." in page
    for text in ("\n".join(lines), page):
        assert "made, but" not in text.lower()
    step = document_of(report)["steps"][-1]
    assert (step["state"], step["not_seen"]) == ("refused", "no answer")
    (failure,) = ElementTree.fromstring(junit_xml(report)).iter("failure")
    assert failure.get("message") == (
        "refused: max_connections is the primary's; what would come of it could not be tried: "
        "no answer"
    )


def test_what_was_seen_to_fail_before_nothing_more_was_seen_is_a_break() -> None:
    lost = Observation(Proof.PROMOTE, Result.FAILED, "of the old cluster: it is not opened")
    report = with_last(good_report(), observations=(lost,), not_seen="no answer")
    assert summary(report) == "protection would break: broken after primary: image postgres:16.14"
    lines = table(report)
    assert lines[4].endswith("BROKEN")
    assert "   made, but not to be looked at: no answer" in lines
    assert "      of the old cluster: it is not opened" in lines
    step = document_of(report)["steps"][-1]
    assert (step["state"], step["not_seen"]) == ("broken", "no answer")
    suite = ElementTree.fromstring(junit_xml(report))
    assert [each.get("message") for each in suite.iter("failure")] == [
        "broken: promotion failed; not to be looked at further: no answer",
        "of the old cluster: it is not opened",
    ]
    assert not list(suite.iter("error"))


def test_a_proof_that_could_not_be_had_is_told() -> None:
    report = lacking_report()
    assert report.protected
    lines = table(report)
    assert "   amcheck: not looked at: amcheck can't be had: app: no such file" in lines
    assert lines[-1] == (
        "protection would survive; not looked at everywhere: amcheck (docker, 92 s)"
    )
    assert " 5 of 6 ok " in table_lines(report, 80)[4].text
    assert "not looked at" not in "\n".join(table(bad_report())), "a failure left nothing to see"


def test_a_step_that_was_made_and_not_looked_at_is_told_apart() -> None:
    report = unseen_report()
    lines = table(report)
    assert lines[3].endswith("not seen")
    assert "   made, but not to be looked at: no answer" in lines
    assert summary(report) == (
        "not shown whether protection would survive: "
        "what came of standby: image postgres:16.14 could not be looked at"
    )
    step = document_of(report)["steps"][1]
    assert (step["state"], step["not_seen"], step["not_run"]) == ("not seen", "no answer", None)
    assert "Made, but not to be looked at: no answer" in html_page(report)


def test_what_is_needed_is_needed_of_both_clusters_of_an_upgrade() -> None:
    report = good_report()
    (old,) = (each for each in report.steps[-1].observations if each.proof is Proof.CONTENTS)
    unknown = replace(old, result=Result.NOT_RUN)
    observations = (unknown, *report.steps[-1].observations)
    assert not with_last(report, observations=observations).protected
    assert with_last(report, observations=(old, *observations[1:])).protected


def test_the_page_is_complete_in_itself_and_quotes_what_it_shows() -> None:
    page = html_page(bad_report())
    assert "Libraries &amp; &lt;libc&gt;" in page
    assert "<bookworm>" not in page
    assert "Protection would break: held after" in page
    assert "Findings against the rules" in page
    assert "a step before it broke protection" in page
    for outside in ("<script", "<link", "<img", "src=", "url(", "@import", "http"):
        assert outside not in page
    assert page.count('<td class="bad">FAILED</td>') == 2
    assert "&lt;td" not in page
    assert "Findings against" not in html_page(good_report())
    assert "Refused: max_connections" in html_page(refused_report())


def test_an_empty_page_can_be_made() -> None:
    report = replace(good_report(), steps=())
    assert "nothing was rehearsed" in html_page(report).lower()


@pytest.mark.parametrize(
    "render", [html_page, junit_xml, lambda each: json.dumps(document_of(each))]
)
def test_no_form_gives_a_password_away(render: object) -> None:
    assert callable(render)
    report = bad_report()
    refused = replace(report.steps[0], verdict=Verdict(refused="a password=hunter2 in it"))
    text = render(replace(report, steps=(refused, *report.steps[1:])))
    assert "hunter2" not in text
    assert "password=***" in text
    assert "hunter2" not in "".join(table(report))


def test_a_page_without_jinja2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match="jinja2") as caught:
        check_html_can_be_made()
    assert "logship[rehearse]" in caught.value.hint

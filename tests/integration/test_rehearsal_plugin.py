"""The plugin of pytest, in runs of pytest of its own."""

from __future__ import annotations

import sys

import pytest

pytest_plugins = ["pytester"]

pytestmark = pytest.mark.integration

_REPORTS = "from tests.support.sample_report import bad_report, good_report\n"


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory for tests, and no container engine."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{pytester.path}/no.sock")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    return pytester


def test_loading_it_costs_nothing_and_its_option_is_explained(run: pytest.Pytester) -> None:
    run.makepyfile(
        """
        import sys

        def test_what_is_loaded():
            assert "logship.rehearsal.plugin" in sys.modules
            ours = {name for name in sys.modules if name.startswith(("logship", "shipper"))}
            assert ours == {"logship", "logship.rehearsal", "logship.rehearsal.plugin"}
        """
    )
    run.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)
    said = run.runpytest_subprocess("--help").stdout.str()
    assert "--rehearsal-engine={docker,local}" in said


def test_a_failure_shows_the_table(run: pytest.Pytester) -> None:
    run.makepyfile(
        _REPORTS
        + """
from logship.rehearsal.plugin import Rehearsed

def test_good():
    report = Rehearsed(good_report())
    report.assert_protected()
    assert report.protected and len(report.steps) == 3 and report.findings == ()

def test_bad():
    Rehearsed(bad_report()).assert_protected()
"""
    )
    result = run.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*STEP*CHECK*FLOW*",
            "*2  primary: shared_preload_libraries*block*FAILED*held*",
            "*protection would break: held after primary: shared_preload_libraries*",
        ]
    )
    assert "plugin.py" not in result.stdout.str()


def test_without_an_engine_a_rehearsal_is_skipped_and_a_wrong_plan_still_fails(
    run: pytest.Pytester,
) -> None:
    run.makepyfile(
        """
        import pytest
        from logship.errors import UsageError

        def test_flags(rehearsal):
            rehearsal(from_image="postgres:16.9", to_image="postgres:16.14")

        def test_plan_beside_the_test(rehearsal):
            rehearsal("plan.toml")

        def test_wrong(rehearsal):
            with pytest.raises(UsageError, match="no such plan"):
                rehearsal("none.toml")
            with pytest.raises(UsageError, match="change nothing"):
                rehearsal(from_image="postgres:16.9")
            with pytest.raises(TypeError, match="not both"):
                rehearsal("plan.toml", from_image="postgres:16.9")
        """
    )
    (run.path / "plan.toml").write_text('[start]\nprimary = "postgres:16.9"\n')
    result = run.runpytest_subprocess("-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*no rehearsal: *"])

"""The plugin of pytest, in runs of pytest of its own."""

from __future__ import annotations

import sys

import pytest

pytest_plugins = ["pytester"]

pytestmark = pytest.mark.integration


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory for tests, and no container engine."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{pytester.path}/no.sock")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    return pytester


def test_it_is_there_where_logship_is_installed_and_costs_nothing(
    run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.makepyfile(
        """
        import sys

        def test_what_is_loaded(pytestconfig):
            assert pytestconfig.getoption("--rehearsal-engine") == "local"
            ours = {name for name in sys.modules if name.startswith(("logship", "shipper"))}
            assert ours == {"logship", "logship.rehearsal", "logship.rehearsal.plugin"}
        """
    )
    # It warns where it is not told of a scope, and there are no coroutines here.
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:asyncio -p no:cacheprovider -W error")
    run.runpytest_subprocess("--rehearsal-engine=local").assert_outcomes(passed=1)


def test_failures_show_the_table_and_without_an_engine_rehearsals_are_skipped(
    run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.makepyfile(
        """
        import pytest
        from logship.errors import UsageError
        from logship.rehearsal.plugin import Rehearsed
        from tests.support.sample_report import bad_report, good_report

        def test_good():
            report = Rehearsed(good_report())
            report.assert_protected()
            assert report.protected and len(report.steps) == 3 and report.findings == ()

        def test_bad():
            Rehearsed(bad_report()).assert_protected()

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

        def test_no_plan(rehearsal):
            rehearsal("none.toml")

        def test_no_flag(rehearsal):
            rehearsal(of_image="postgres:16.9")
        """
    )
    (run.path / "plan.toml").write_text('[start]\nprimary = "postgres:16.9"\n')
    # The other plugins take longer to load than all of this to run.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = run.runpytest_subprocess("-p", "logship.rehearsal.plugin", "-rs")
    result.assert_outcomes(passed=2, failed=3, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "E *AssertionError: protection would break: held after primary*",
            "*STEP*CHECK*FLOW*",
            "*2  primary: shared_preload_libraries*block*FAILED*held*",
            "*protection would break: held after primary: shared_preload_libraries*",
            '>*rehearsal("none.toml")',
            "E *SettingsError: *none.toml: there is no such plan*",
            '>*rehearsal(of_image="postgres:16.9")',
            "E *TypeError: *of_image*",
            "SKIPPED*no rehearsal: *",
        ]
    )
    shown = result.stdout.str().partition("short test summary")[0]
    for ours in ("plugin.py", "reading.py", "During handling", "direct cause"):
        assert ours not in shown

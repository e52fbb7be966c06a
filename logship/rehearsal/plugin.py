"""Rehearsals in a team's own tests: a plugin of pytest, there wherever Logship is installed.

    def test_the_upgrade(rehearsal):
        rehearsal("plans/upgrade.toml").assert_protected()

    def test_the_next_minor(rehearsal):
        report = rehearsal(from_image="postgres:16.9", to_image="postgres:16.14")
        report.assert_protected()
        assert report.steps[-1].outage.writes_seconds < 10

`--rehearsal-engine` says where they happen.  Without a container engine they are skipped, with
the reason.  Every run of pytest loads this module, so that all else is imported when the
fixture is used.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from logship.rehearsal.outcome import Report, RuleFinding, StepOutcome
    from logship.rehearsal.plan import Plan


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("logship", "rehearsals of Logship").addoption(
        "--rehearsal-engine",
        choices=("docker", "local"),
        default="docker",
        help="where rehearsals happen: in containers, or with the PostgreSQL installations of "
        "this host (default: %(default)s)",
    )


class Rehearsed:
    """What came of a rehearsal.  `report` has all of it (`logship.rehearsal.outcome`)."""

    def __init__(self, report: Report) -> None:
        self.report = report

    @property
    def protected(self) -> bool:
        """Whether every step was made and kept protection."""
        return self.report.protected

    @property
    def steps(self) -> tuple[StepOutcome, ...]:
        """The state before the first step, then each step."""
        return self.report.steps

    @property
    def findings(self) -> tuple[RuleFinding, ...]:
        """Where the version check and what then happened disagree."""
        return self.report.findings

    @property
    def table(self) -> str:
        """The report as `shipper rehearse` prints it."""
        from logship.rehearsal.reports.table import table_lines

        return "\n".join(line.text for line in table_lines(self.report))

    def assert_protected(self) -> None:
        """Raises AssertionError with the summary, which pytest's last lines show, and the table
        unless every step kept protection."""
        from logship.rehearsal.reports.words import summary

        __tracebackhide__ = True
        if not self.protected:
            raise AssertionError(f"{summary(self.report)}\n{self.table}")


class Rehearsing:
    """The fixture `rehearsal`.  directory: which relative paths are taken from."""

    def __init__(self, engine_name: str, directory: Path) -> None:
        self._engine_name = engine_name
        self._directory = directory

    def __call__(self, plan: Plan | Path | str | None = None, **flags: Any) -> Rehearsed:
        """Rehearse a plan, the plan in a file, or what flags say (the fields of
        `logship.rehearsal.plan.flags.Flags`).  What was made for it is gone afterwards.

        Skips the test without a container engine.  Raises LogshipError for a plan that is
        wrong, or that could not be rehearsed at all, and TypeError for other keywords: pytest
        shows either at the test's own line.
        """
        from logship.errors import LogshipError

        __tracebackhide__ = True
        try:
            planned = self._plan_of(plan, flags)
        except (LogshipError, TypeError) as error:
            raise error.with_traceback(None) from None
        try:
            return self._rehearsed(planned)
        except LogshipError as error:
            raise error.with_traceback(None) from None

    def _rehearsed(self, planned: Plan) -> Rehearsed:
        from logship.errors import Code, LogshipError
        from logship.rehearsal.running import close, open_engine, rehearse

        try:
            engine = open_engine(self._engine_name)
        except LogshipError as error:
            if error.code is not Code.NO_CONTAINER_ENGINE:
                raise
            pytest.skip(f"no rehearsal: {error.what}")
        try:
            return Rehearsed(rehearse(planned, engine, print))
        finally:
            close(engine, _warn)

    def _plan_of(self, plan: Plan | Path | str | None, flags: dict[str, Any]) -> Plan:
        from logship.rehearsal.plan.flags import Flags, plan_of_flags
        from logship.rehearsal.plan.reading import load_plan

        if plan is None:
            return plan_of_flags(Flags(**{"directory": self._directory, **flags}))
        if flags:
            raise TypeError("a rehearsal takes a plan or flags, not both")
        if isinstance(plan, Path | str):
            return load_plan(self._directory / plan)
        return plan


def _warn(text: str) -> None:
    with warnings.catch_warnings():
        # An error would take the place of the report.
        warnings.simplefilter("always")
        warnings.warn(text, stacklevel=1)


@pytest.fixture
def rehearsal(request: pytest.FixtureRequest) -> Rehearsing:
    """Rehearses a plan or flags when it is called; relative paths are those of the test's file."""
    return Rehearsing(request.config.getoption("--rehearsal-engine"), request.path.parent)

"""What is changed on the primary alone: statements, data checksums."""

from __future__ import annotations

from logship.errors import LogshipError
from logship.rehearsal.outcome import Verdict
from logship.rehearsal.plan import Step
from logship.rehearsal.site.primary import Primary
from logship.rehearsal.site.stage import Stage
from logship.rehearsal.steps import Made


class Statements:
    """SQL in a database of the primary: CREATE EXTENSION, ALTER SYSTEM …"""

    def __init__(self, step: Step) -> None:
        self._sql = step.sql
        self._database = step.database

    def foresee(self, stage: Stage) -> Verdict:
        with stage.primary_copy() as primary:
            primary.start()
            self._run_on(primary)
            return stage.verdict_on(primary)

    def make(self, stage: Stage) -> Made:
        self._run_on(stage.primary)
        return Made()

    def _run_on(self, primary: Primary) -> None:
        try:
            primary.run_script(self._sql, self._database)
        except LogshipError as error:
            # What is to be changed is often in another than the first.
            where = "--sql-database, or `database` in a plan, says where statements run"
            hint = error.hint or f"this was in {self._database}: {where}"
            raise LogshipError(error.code, error.what, hint, retryable=error.retryable) from error


class Checksums:
    """Data checksums on or off, by pg_checksums while the server is down."""

    def __init__(self, step: Step) -> None:
        self._enable = step.enable

    def foresee(self, stage: Stage) -> Verdict:
        with stage.primary_copy() as primary:
            primary.start()
            primary.enable_checksums(self._enable)
            return stage.verdict_on(primary)

    def make(self, stage: Stage) -> Made:
        stage.primary.enable_checksums(self._enable)
        return Made()

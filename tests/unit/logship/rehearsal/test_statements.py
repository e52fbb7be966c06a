"""What is said of statements that the primary refuses."""

from __future__ import annotations

from typing import cast

import pytest

from logship.errors import Code, LogshipError
from logship.rehearsal.plan import Kind, Side, Step
from logship.rehearsal.site.stage import Stage
from logship.rehearsal.steps.primary import Statements


class Refusing:
    """A stage, and its primary."""

    def __init__(self, hint: str) -> None:
        self.primary = self
        self.hint = hint

    def run_script(self, script: str, database: str) -> None:
        raise LogshipError(Code.REHEARSAL_FAILED, f"{database} has no hstore", self.hint)


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        ("", "this was in postgres: --sql-database, or `database` in a plan, says where"),
        ("wait a little", "wait a little"),
    ],
)
def test_where_they_ran_is_told(hint: str, said: str) -> None:
    change = Statements(Step(Kind.SQL, Side.PRIMARY, sql="alter extension hstore update"))
    with pytest.raises(LogshipError, match="postgres has no hstore") as refused:
        change.make(cast(Stage, Refusing(hint)))
    assert refused.value.hint.startswith(said)

"""What is said of a program on a machine that failed, and how one that runs there says it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from logship.errors import Code, LogshipError
from logship.rehearsal.engine import Done, Machine
from logship.rehearsal.inside import sql
from logship.rehearsal.inside.speaking import answer
from logship.rehearsal.site.programs import ask_tool


class Answers:
    """A machine on which every program ends with the same."""

    name = "primary"

    def __init__(self, done: Done) -> None:
        self._done = done

    def tool_command(self, module: str) -> list[str]:
        return [module]

    def run(self, command: list[str], *, stdin: str, timeout_seconds: float) -> Done:
        return self._done


def asked(document: Mapping[str, Any], returncode: int = 0) -> dict[str, Any]:
    machine = Answers(Done(returncode, json.dumps(document) + "\n", ""))
    return ask_tool(cast(Machine, machine), "sql", {})


def test_an_error_has_its_code_and_says_where_it_happened() -> None:
    error = LogshipError(Code.NO_INSTALLATION, "none is there", "install one", retryable=True)
    with pytest.raises(LogshipError) as said:
        asked({"error": error.as_dict()}, 1)
    assert said.value.what == "sql on primary: none is there"
    assert (said.value.code, said.value.hint) == (error.code, error.hint)
    assert said.value.retryable
    assert asked({"rows": [[1]]}) == {"rows": [[1]]}


def test_statements_that_can_not_be_run_are_an_error_with_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"conninfo": f"host={tmp_path} port=1", "statements": ["select 1"]}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(told)))
    assert answer(sql.run) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == Code.REHEARSAL_FAILED
    assert "No such file or directory" in error["what"]
    with pytest.raises(LogshipError, match="sql on primary: ") as said:
        asked({"error": error}, 1)
    assert said.value.code is Code.REHEARSAL_FAILED


def test_what_json_has_no_word_for_is_answered_as_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("{}"))
    assert answer(lambda told: {"rows": [(1, Path("a"))]}) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": [[1, "a"]]}

"""When the writer beside a primary is over, and what is said of one that did not end well."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, cast

import pytest

from logship.errors import Code, LogshipError
from logship.rehearsal.engine import Done, Machine
from logship.rehearsal.inside.writer import READY
from logship.rehearsal.plan import Database
from logship.rehearsal.site import primary as primary_module
from logship.rehearsal.site.primary import Primary, Written

WRITTEN = Written(9, 0.5, 100.0, 110.0, begun_at=99.0, ended_at=111.0)


class Ending:
    """A writer that ends with `status`, whatever it printed."""

    running = True

    def __init__(self, status: int) -> None:
        self._status = status

    def stop(self, timeout_seconds: float = 30.0) -> int:
        return self._status

    def log(self) -> str:
        return f"{READY}\n{json.dumps(vars(WRITTEN))}\n"


class Asked:
    """A machine with such a writer, whose server answers with each of `says` in turn."""

    name = "primary"
    home = PurePosixPath("/home")

    def __init__(self, status: int, *says: Mapping[str, Any]) -> None:
        self._status = status
        self.says = list(says)

    def tool_command(self, module: str) -> list[str]:
        return [module]

    def start(self, command: Sequence[str], name: str) -> Ending:
        return Ending(self._status)

    def run(self, command: Sequence[str], *, stdin: str, timeout_seconds: float) -> Done:
        document = self.says.pop(0)
        return Done(1 if "error" in document else 0, json.dumps(document), "")


def primary_on(machine: Asked) -> Primary:
    primary = Primary(cast(Machine, machine), "main", Database(rows=1))
    primary.start_writer()
    return primary


def sessions(count: int) -> dict[str, Any]:
    return {"rows": [[count]]}


def test_a_writer_that_did_not_end_well_has_not_said_what_it_wrote() -> None:
    with pytest.raises(LogshipError, match="the writer on primary ended with 143") as ended:
        primary_on(Asked(143, sessions(0))).stop_writer()
    assert ended.value.code is Code.REHEARSAL_FAILED


def test_what_it_wrote_is_known_when_its_session_is_over() -> None:
    machine = Asked(0, sessions(1), sessions(1), sessions(0))
    assert primary_on(machine).stop_writer() == WRITTEN
    assert machine.says == []


def test_a_server_that_is_down_has_no_session() -> None:
    machine = Asked(0, {"error": {"code": Code.REHEARSAL_FAILED, "what": "nobody listens"}})
    assert primary_on(machine).stop_writer() == WRITTEN


def test_a_session_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primary_module, "SESSION_SECONDS", 0.0)
    assert primary_on(Asked(0, sessions(1))).stop_writer() == WRITTEN

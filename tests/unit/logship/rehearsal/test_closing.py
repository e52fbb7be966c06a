"""What a rehearsal has seen is told also if not all that was made for it can be removed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from logship.commandline import run_program
from logship.errors import Code, LogshipError
from logship.rehearsal import running
from logship.rehearsal.plugin import Rehearsing
from shipper.commands import PROGRAM
from tests.support.sample_report import bad_report, good_report


class InUse:
    """An engine of which a volume can't be removed."""

    def close(self) -> None:
        raise LogshipError(Code.CONTAINER_FAILED, "not all could be removed: volume in use")


@pytest.fixture(autouse=True)
def _is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "open_engine", lambda _: InUse())


@pytest.mark.parametrize(("report", "status"), [(good_report(), 0), (bad_report(), 3)])
def test_the_command_prints_the_report_and_ends_as_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], report: object, status: int
) -> None:
    monkeypatch.setattr(running, "rehearse", lambda *_: report)
    assert run_program(PROGRAM, ["rehearse", "--from", "a", "--to", "b", "--json"]) == status
    out, err = capsys.readouterr()
    assert json.loads(out)["protected"] is (status == 0)
    assert "not all could be removed: volume in use" in err


def test_why_nothing_could_be_rehearsed_is_told_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rehearse(*_: object) -> None:
        raise LogshipError(Code.REHEARSAL_FAILED, "no server starts")

    monkeypatch.setattr(running, "rehearse", rehearse)
    assert run_program(PROGRAM, ["rehearse", "--from", "a", "--to", "b"]) == 1
    assert "no server starts" in capsys.readouterr().err


def test_the_fixture_returns_the_report_and_warns_whatever_warnings_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(running, "rehearse", lambda *_: good_report())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("error")
        done = Rehearsing("local", tmp_path)(from_image="a", to_image="b")
    assert done.protected
    assert "volume in use" in str(told[0].message)

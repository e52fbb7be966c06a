"""What the demo says in the end: the numbers of each instance, and whether the promise was kept."""

from __future__ import annotations

import argparse
import json

import pytest

from logship.errors import UsageError
from shipper.commands import demo
from shipper.commands.demo.outcome import Outcome, show

KEPT = Outcome("18.6", "sync", 12465, 12465, 0, 0, 0.112, 0.114)
BROKEN = Outcome("17.10", "sync", 700, 690, 10, None, 0.2, 0.21)


def test_one_is_a_list_of_facts(capsys: pytest.CaptureFixture[str]) -> None:
    show({"demo": KEPT}, as_json=False, as_list=False)
    lines = capsys.readouterr().out.splitlines()
    assert "  acknowledged                 12465 transactions" in lines
    assert "  transfer gap at the failure  0 bytes" in lines
    assert lines[-1] == "  no acknowledged transaction was lost"


def test_several_stand_side_by_side_with_a_verdict_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show({"demo-1": KEPT, "demo-2": BROKEN}, as_json=False, as_list=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["demo-1", "demo-2"]
    assert lines[2].split() == ["PostgreSQL", "18.6", "17.10"]
    assert "  transfer gap at the failure  0 bytes             ?" in lines
    assert lines[-2] == "  demo-1: no acknowledged transaction was lost"
    assert lines[-1].startswith("  demo-2: PROMISE BROKEN: 10 acknowledged")


def test_as_json_they_are_a_list_where_a_number_of_them_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show({"demo": KEPT}, as_json=True, as_list=False)
    single = json.loads(capsys.readouterr().out)
    assert single == {**KEPT._asdict(), "verdict": KEPT.verdict}
    show({"demo": KEPT}, as_json=True, as_list=True)
    assert json.loads(capsys.readouterr().out) == {"instances": [single]}
    show({"demo-1": KEPT, "demo-2": BROKEN}, as_json=True, as_list=True)
    shown = json.loads(capsys.readouterr().out)["instances"]
    assert [one["lost"] for one in shown] == [0, 10]
    assert {frozenset(one) for one in shown} == {frozenset(single)}


@pytest.mark.parametrize("count", ["0", "6", "-1"])
def test_too_many_or_too_few_are_refused(count: str) -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    with pytest.raises(UsageError, match="--instances"):
        demo.run(parser.parse_args(["--instances", count]))


def test_a_major_that_is_not_supported_is_refused() -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    with pytest.raises(UsageError) as caught:
        demo.run(parser.parse_args(["--postgres", "13"]))
    assert caught.value.hint == "give one of 14, 15, 16, 17, 18"

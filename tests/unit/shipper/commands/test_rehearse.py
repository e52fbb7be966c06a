"""The command line of `shipper rehearse`: what it takes, and what it refuses before it begins."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from logship.commandline import run_program
from logship.rehearsal.plan.flags import Flags
from shipper.commands import PROGRAM, rehearse
from shipper.commands.rehearse_flags import flags_of, given

TOLD_TWICE = """
import argparse, atexit, os, signal, sys
from shipper.commands import rehearse

def tell(*_):
    os.kill(os.getpid(), signal.SIGTERM)

atexit.register(tell)
rehearse._plan_of = rehearse._check_files = lambda _: None
rehearse._rehearsed = tell
sys.exit(rehearse.run(argparse.Namespace(engine="local")))
"""


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    rehearse.add_arguments(parser)
    return parser.parse_args(words)


def test_what_is_not_given_keeps_its_default() -> None:
    args = parsed("--from", "pg:16")
    assert given(args) == ["--from"]
    assert flags_of(args) == Flags(from_image="pg:16")


def test_each_flag_has_its_place() -> None:
    line = (
        "--from a --to b --order primary --primary-image c --standby-image d --to-major 18 "
        "--set-primary work_mem=1MB --set-primary jit=off --set-standby work_mem=2MB --sql s "
        "--sql-database t "
        "--checksums off --shipper e --applier f --shipper-to g --applier-to h --rows 5 "
        "--schema i --instance main --applier-config j --locale C.UTF-8 --icu-locale de "
        "--parameter max_connections=9 --patience-seconds 20"
    )
    words = line.split()
    args = parsed(*words)
    flags = flags_of(args)
    assert flags == Flags(
        from_image="a",
        to_image="b",
        order="primary",
        primary_image="c",
        standby_image="d",
        to_major=18,
        set_primary={"work_mem": "1MB", "jit": "off"},
        set_standby={"work_mem": "2MB"},
        sql=Path("s"),
        sql_database="t",
        checksums=False,
        shipper="e",
        applier="f",
        shipper_to="g",
        applier_to="h",
        rows=5,
        schema=Path("i"),
        instance="main",
        applier_config=Path("j"),
        locale="C.UTF-8",
        icu_locale="de",
        parameters={"max_connections": "9"},
        patience_seconds=20.0,
        directory=flags.directory,
    )
    assert set(given(args)) == {word for word in words if word.startswith("--")}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "there is nothing to rehearse"),
        (["PLAN", "--to", "b", "--set-primary", "a=1"], "a plan and --to, --set-primary do not go"),
        (["none.toml"], "there is no such plan"),
        (["--from", "a"], "these flags change nothing"),
        (["--from", "a", "--set-primary", "b"], "--set-primary takes NAME=VALUE"),
        (["--from", "a", "--to", "b", "--engine", "cloud"], "invalid choice: 'cloud'"),
        (["--from", "a", "--to", "b", "--html", "DIR"], "no file that can be written"),
        (["--from", "a", "--to", "b", "--junit", "DIR/none/x.xml"], "no file that can be written"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], what: str
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[start]\nprimary = "a"\n')
    placed = [word.replace("PLAN", str(plan)).replace("DIR", str(tmp_path)) for word in words]
    assert run_program(PROGRAM, ["rehearse", *placed]) == 2
    assert what in capsys.readouterr().err


def test_who_is_told_to_end_once_more_when_all_is_removed_ends_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", TOLD_TWICE], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, b"", b"")

"""ops/*.service, *.timer: systemd takes them, and what standbys' survival hangs on is in them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OPS = Path(__file__).resolve().parents[2] / "ops"
INSTALLED = "/opt/logship/bin/"
UNITS = ("logship-applier.service", "logship-shipper@.service")
DRILL = "logship-drill@.service"
DRILL_TIMER = "logship-drill@.timer"


def settings_of(unit: str) -> dict[str, str]:
    """Settings of all sections by name; none of ours stands in two of them."""
    lines = (OPS / unit).read_text(encoding="utf-8").splitlines()
    assignments = [line.partition("=") for line in lines if line[:1].isalpha()]
    return {name: value for name, _, value in assignments}


@pytest.mark.parametrize("unit", [*UNITS, DRILL, DRILL_TIMER])
def test_systemd_finds_nothing_wrong(unit: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    copy = copy_of(unit, tmp_path)
    if unit == DRILL_TIMER:
        copy_of(DRILL, tmp_path)  # it looks for what the timer starts
    done = subprocess.run(
        [analyze, "verify", "--man=no", copy], capture_output=True, text=True, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if unit.partition(".")[0] in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


def copy_of(unit: str, directory: Path) -> Path:
    """It looks for the program too, which is here where a developer's environment has it."""
    text = (OPS / unit).read_text(encoding="utf-8")
    assert text.count(INSTALLED) == (0 if unit == DRILL_TIMER else 1)
    copy = directory / unit
    copy.write_text(text.replace(INSTALLED, f"{Path(sys.executable).parent}/"), encoding="utf-8")
    return copy


def test_a_drill_is_made_by_whoever_owns_the_standbys_and_takes_its_time() -> None:
    settings = settings_of(DRILL)
    assert settings["User"] == settings_of("logship-applier.service")["User"]
    assert settings["TimeoutStartSec"] == "infinity" and settings["Type"] == "oneshot"
    assert settings_of(DRILL_TIMER)["Persistent"] == "yes"


@pytest.mark.parametrize("unit", UNITS)
def test_what_somebody_must_mend_first_is_not_started_again(unit: str) -> None:
    settings = settings_of(unit)
    assert settings["Restart"] == "on-failure"
    assert settings["RestartPreventExitStatus"].split() == ["2", "3"]


def test_standbys_outlive_the_applier() -> None:
    """Tried with systemd 252: the same postmasters after stop, start, restart and SIGKILL."""
    settings = settings_of("logship-applier.service")
    assert settings["KillMode"] == "process"
    assert settings["RuntimeDirectoryPreserve"] == "yes", "their sockets are in it"
    assert settings["OOMPolicy"] == "continue"
    assert settings["User"] != "root"


def test_the_drop_in_for_memory_lets_the_applier_make_cgroups() -> None:
    """Of a subtree that is its own; the unit alone has all of them read-only."""
    assert settings_of("logship-applier.service")["ProtectControlGroups"] == "yes"
    assert settings_of("logship-applier-memory.conf") == {
        "Delegate": "memory",
        "DelegateSubgroup": "applier",
        "ProtectControlGroups": "no",
    }


def test_standbys_see_the_machine_as_it_is() -> None:
    """A promoted server inherits what the applier's unit restricts."""
    settings = settings_of("logship-applier.service")
    hidden = {"PrivateTmp", "PrivateDevices", "ProtectHome", "ProtectProc", "PrivateNetwork"}
    assert not hidden & settings.keys()
    assert "MemoryDenyWriteExecute" not in settings, "PostgreSQL compiles queries (JIT)"

"""Which account servers run under."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from logship.errors import Code, UsageError
from logship.postgres.run_as import RunAs

IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root changes accounts")
as_other = pytest.mark.skipif(IS_ROOT, reason="root always changes the account")


@as_root
def test_root_runs_programs_as_the_named_user(shared_tmp_path: Path) -> None:
    run_as = RunAs.of("nobody")
    assert run_as.changes
    answer = subprocess.run(
        ["id", "-u"], capture_output=True, text=True, check=True, **run_as.subprocess_arguments()
    )
    assert int(answer.stdout) == run_as.uid == pwd.getpwnam("nobody").pw_uid
    assert not {"HOME", "USER", "LOGNAME"} & set(run_as.environment())

    tree = shared_tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "file").touch()
    outside = shared_tmp_path / "outside"
    outside.touch()
    (tree / "link").symlink_to(outside)
    run_as.chown_tree(tree)
    assert (tree / "below" / "file").stat().st_uid == run_as.uid
    assert (tree / "link").lstat().st_uid == run_as.uid
    assert outside.stat().st_uid == 0


@as_root
@pytest.mark.parametrize(("user", "says"), [("root", "refuses"), ("no-such-user", "no user")])
def test_accounts_that_can_not_be_used_are_refused(user: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        RunAs.of(user)
    assert caught.value.code is Code.SETTINGS
    assert caught.value.hint


@as_other
def test_others_run_programs_as_themselves() -> None:
    run_as = RunAs.of(None)
    assert not run_as.changes
    assert run_as.uid == os.geteuid()
    assert run_as.subprocess_arguments() == {}
    assert RunAs.of(run_as.name) == run_as
    with pytest.raises(UsageError, match="only root"):
        RunAs.of("root")


def test_a_servers_environment_has_no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/x")
    monkeypatch.setenv("LANG", "C.UTF-8")
    environment = RunAs.of("nobody" if IS_ROOT else None).environment()
    assert "PGPORT" not in environment
    assert "NOTIFY_SOCKET" not in environment
    assert environment["LANG"] == "C.UTF-8"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (True, "runuser -u postgres -- pg_ctl stop -D '/my data'"),
        (False, "pg_ctl stop -D '/my data'"),
    ],
)
def test_a_line_for_a_shell_changes_to_the_account(changes: bool, line: str) -> None:
    run_as = RunAs("postgres", 101, 104, (104,), changes)
    assert run_as.shell_line(["pg_ctl", "stop", "-D", Path("/my data")]) == line

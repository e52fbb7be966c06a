"""An offline promotion leaves nothing behind that the applier could not read."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

PROGRAM = """
import os, sys
from pathlib import Path
from applier.service.offline import become_owner
become_owner(Path(sys.argv[1]))
Path(sys.argv[1], "made").write_text("x")
print(os.geteuid(), os.getegid())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_goes_on_as_the_user_whose_directory_it_is(shared_tmp_path: Path) -> None:
    account = pwd.getpwnam("nobody")
    directory = shared_tmp_path / "applier"
    directory.mkdir()
    os.chown(directory, account.pw_uid, account.pw_gid)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, directory], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(account.pw_uid), str(account.pw_gid)]
    assert (directory / "made").stat().st_uid == account.pw_uid


def test_a_directory_of_ones_own_changes_nothing(shared_tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, shared_tmp_path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[0]) == os.geteuid()

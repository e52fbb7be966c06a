"""What a restore holds while it runs, and nobody holds once it is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from applier.retention.leases import EVERYTHING, HeldLease, Lease, running_restores
from logship.lsn import Lsn

_HOLD = """
import sys
from pathlib import Path
from applier.retention.leases import HeldLease
held = HeldLease.take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lease_is_seen_until_it_is_released(tmp_path: Path) -> None:
    assert running_restores(tmp_path) == []
    first, second = HeldLease.take(tmp_path), HeldLease.take(tmp_path)
    assert first is not None and second is not None
    assert running_restores(tmp_path) == [EVERYTHING, EVERYTHING]
    lease = Lease(2, Lsn(4096), "aa")
    first.narrow(Lease(1 << 20, 1 << 60, "b" * 64))
    first.narrow(lease)
    second.release()
    assert running_restores(tmp_path) == [lease]
    first.release()
    assert running_restores(tmp_path) == []
    assert list((tmp_path / "restores").iterdir()) == []


def test_one_who_is_killed_holds_nothing_any_more(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as restore:
        assert restore.stdout is not None
        assert restore.stdout.readline() == b"held\n"
        assert running_restores(tmp_path) == [EVERYTHING]
        restore.kill()
        restore.wait(30)
        assert running_restores(tmp_path) == []
    assert list((tmp_path / "restores").iterdir()) == []


def test_where_nothing_is_kept_nothing_is_held(tmp_path: Path) -> None:
    assert HeldLease.take(tmp_path / "none") is None
    assert running_restores(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()

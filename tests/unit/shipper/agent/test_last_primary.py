"""What a shipper knows of its primary over a restart of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipper.agent.last_primary import LastPrimary, load_last_primary, save_last_primary
from tests.support.link_frames import profile


def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    assert load_last_primary(tmp_path) is None
    for timeline in (1, 2):
        save_last_primary(tmp_path, LastPrimary(profile(), timeline))
        assert load_last_primary(tmp_path) == LastPrimary(profile(), timeline)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b'{"timeline": 1}'])
def test_one_that_cannot_be_read_is_as_none(tmp_path: Path, content: bytes) -> None:
    """It is told anew as soon as the primary is reached; nothing depends on it."""
    (tmp_path / "primary.json").write_bytes(content)
    assert load_last_primary(tmp_path) is None


def test_a_directory_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    save_last_primary(tmp_path / "gone", LastPrimary(profile(), 1))
    assert load_last_primary(tmp_path / "gone") is None

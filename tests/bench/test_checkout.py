"""The commit beside a result is that of the code."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.bench.checkout import commit_of


def git(root: Path, *arguments: str) -> str:
    named = ["-c", "user.name=n", "-c", "user.email=n@localhost", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(root), *named, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_page_with_new_results_is_no_change_of_the_code(tmp_path: Path) -> None:
    page, code = tmp_path / "docs" / "page.md", tmp_path / "code.py"
    assert commit_of(tmp_path / "none", tmp_path / "none" / "page.md") == "unknown"
    page.parent.mkdir()
    page.write_text("none yet")
    code.write_text("pass")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    commit = git(tmp_path, "rev-parse", "--short", "HEAD")
    page.write_text("results")
    (tmp_path / "untracked").touch()
    assert commit_of(tmp_path, page) == commit
    code.write_text("change")
    assert commit_of(tmp_path, page) == f"{commit}-dirty"

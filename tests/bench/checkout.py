"""Which code was measured."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit_of(root: Path, page: Path) -> str:
    """The commit that is checked out in `root`, "-dirty" after it if any file differs from it;
    "unknown" where git cannot tell.  `page` may differ: every result is written into it."""
    excluded = f":(exclude){page.relative_to(root)}"
    try:
        name = _git(root, "describe", "--always", "--exclude=*")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", excluded)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{name}-dirty" if changed else name


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()

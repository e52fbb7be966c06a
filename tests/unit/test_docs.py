"""The documents that list what the program has are in step with it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from logship.errors import Code

ROOT = Path(__file__).resolve().parents[2]


def test_every_error_code_is_explained_once_and_none_is_invented() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([a-z-]+)` \| .+ \| .+ \|$", text, re.MULTILINE)
    assert sorted(explained) == sorted(Code)


def test_the_settings_page_is_what_the_program_says() -> None:
    script = runpy.run_path(str(ROOT / "ops" / "write_settings_docs.py"))
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == script["document"](), "run: python ops/write_settings_docs.py"

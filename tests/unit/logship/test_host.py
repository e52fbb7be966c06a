"""What a `postgres` and this host tell of the software that orders text."""

from __future__ import annotations

from pathlib import Path

import pytest

from logship.host import icu_of


@pytest.mark.parametrize(
    ("content", "version"),
    [
        (b"\x7fELF\0libicuuc.so.72\0libicui18n.so.72\0libc.so.6\0", "72"),
        (b"\x7fELF\0libc.so.6\0ICU is not supported in this build\0", ""),
        (b"#!/bin/sh\nexec elsewhere\n", None),
        # The name lies across two of the pieces that are read.
        (bytes((1 << 20) - 9) + b"libicui18n.so.76\0", "76"),
    ],
)
def test_a_program_tells_its_icu(content: bytes, version: str | None, tmp_path: Path) -> None:
    program = tmp_path / "postgres"
    program.write_bytes(content)
    assert icu_of(program) == version

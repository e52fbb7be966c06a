"""Settings files of both sides.

Input: flags (1: the applier's), text.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from applier.settings import ApplierSettings
from logship.errors import Code
from logship.settings import SettingsError, parse_settings
from logship.settings_schema import Section
from logship.settings_text import render_commented, toml_value
from shipper.settings import ShipperSettings
from tests.fuzz.mutation import mutate_document, splice
from tests.fuzz.target import Input, MutateBytes

FILE = Path("/etc/logship/settings.toml")
APPLIER = 1
SECRET = "geheim"
SHORT_RUNS = 2000
KINDS: tuple[type[Section], ...] = (ShipperSettings, ApplierSettings)


def run(data: bytes) -> bool:
    fields = Input(data)
    kind = KINDS[fields.number() & APPLIER]
    text = fields.rest().decode("utf-8", "replace")
    try:
        found = parse_settings(text, kind, file=FILE)
    except SettingsError as error:
        assert error.code is Code.SETTINGS
        assert error.findings
        lines = text.count("\n") + text.count("\r") + len(text.splitlines()) + 1
        for finding in error.findings:
            assert 0 <= finding.line <= lines
            assert finding.what
            if finding.key == "primary.conninfo":
                assert SECRET not in finding.what + finding.hint
        return False
    assert parse_settings(text, kind, file=FILE) == found
    return True


def seeds() -> Iterator[bytes]:
    for number, kind in enumerate(KINDS):
        text = render_commented(kind, "a file")
        yield bytes([number]) + text.encode()
        plain = [line for line in text.splitlines() if line and not line.startswith("# ")]
        yield bytes([number]) + "\n".join(plain).encode()
        used = [line for line in plain if not line.startswith("#")]
        yield bytes([number]) + "\r\n".join(used).encode()


WORDS = (
    b"[", b"]", b"[[", b"]]", b"=", b'"', b"'", b'"""', b"'''", b"#", b"\n", b"\r\n", b"\r",
    b".", b"{", b"}", b",", b"true", b"1e9", b"-1", b"0x7f", b"nan", b"inf", b"2024-05-01",
    b"password=" + SECRET.encode(), b"[" * 3000, b"9" * 5000, b"\0", b"\xe2\x80\xa8",
    b"1979-05-27T07:32:00Z", b"99:99:99", b"\\u0000", b"\\ud800", b"x=" + b"{a=" * 800,
    b"a." * 2000, b"\n" + b"[x]\n" * 3, b"log.level='debug'", b"\x0c", b"\x85",
)  # fmt: skip


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    if random.random() < 0.5:
        return data[:1] + splice(data[1:], WORDS, random)
    try:
        document = tomllib.loads(data[1:].decode())
        return data[:1] + _toml(mutate_document(document, random)).encode()
    except (ValueError, RecursionError, TypeError, AttributeError):
        return data[:1] + splice(data[1:], WORDS, random)


def _toml(document: dict[str, Any]) -> str:
    """Inline all the way down."""
    return "\n".join(f"{toml_value(str(key))} = {toml_value(v)}" for key, v in document.items())


MAX_BYTES = 16 * 1024

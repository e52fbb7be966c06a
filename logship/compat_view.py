"""The version check's document as text for a person.  Pure.

Reads leniently, as `logship.status_view` does: an applier of another version may leave keys
out or add some.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

_MOST_CHARACTERS = 40
"""Of a compared value in the table: below it, all of it is told."""

_SEVERITY = {"block": 0, "warn": 1}


def render_compat(document: Mapping[str, Any], width: int = 100) -> str:
    """What was compared, a row per rule, then reason and remedy of all that did not pass."""
    findings = list(document.get("findings") or [])
    installation = document.get("installation") or {}
    head = (
        f"{document.get('name', '?')}: the primary's PostgreSQL {document.get('primary', '?')} "
        f"with {installation.get('version', '?')} in {installation.get('directory', '?')}"
    )
    lines = [head]
    if document.get("given"):
        lines.append("  the primary is the one of the profile that was given")
    if document.get("succeeds"):
        lines.append(f"  it takes the place of cluster {document['succeeds']}")
    refused = document.get("refused")
    if refused:
        text = f"  refused: {refused.get('what', '?')}; {refused.get('hint', '')}"
        lines += textwrap.wrap(text, width, subsequent_indent="    ")
    lines += ["", *_table(findings)]
    concerns = [one for one in findings if one.get("outcome") in _SEVERITY]
    for finding in sorted(concerns, key=lambda one: _SEVERITY[one["outcome"]]):
        lines += ["", *textwrap.wrap(_reason(finding), width, subsequent_indent="  ")]
    return "\n".join([*lines, "", f"{len(findings)} rules: {document.get('outcome', '?')}"])


def _table(findings: list[Mapping[str, Any]]) -> list[str]:
    header = ("rule", "outcome", "primary", "standby")
    rows = [
        (
            str(finding.get("rule", "?")),
            str(finding.get("outcome", "?"))
            + (" (overridden)" if finding.get("overridden") else ""),
            _clipped(finding.get("primary")),
            _clipped(finding.get("standby")),
        )
        for finding in findings
    ]
    columns = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(size) for cell, size in zip(row, columns, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def _clipped(value: object) -> str:
    text = str(value or "-")
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def _reason(finding: Mapping[str, Any]) -> str:
    values = [str(finding.get(side) or "") for side in ("primary", "standby")]
    text = f"{finding.get('rule')}: {finding.get('why', '')}"
    if any(len(value) > _MOST_CHARACTERS for value in values):
        text += f" Primary: {values[0] or '-'}. Standby: {values[1] or '-'}."
    if finding.get("remedy"):
        text += f" Remedy: {finding['remedy']}"
    return text

"""What retention decided, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from applier.retention.plan import Group
from logship.objects import NotDeleted

_SHOWN_KEYS = 20
"""Of keys that could not be removed: a locked bucket may have a million."""


class Part(NamedTuple):
    """Of one place where things are kept."""

    removed: Sequence[Group] = ()
    """Of a dry run: what would be."""
    kept: Sequence[Group] = ()
    not_removed: Sequence[NotDeleted] = ()
    """Refused by the store: locked, or not ours to remove.  They count as kept."""
    held: str = ""
    """Why nothing was looked at, "" if it was."""

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "held": self.held or None,
            "removed": [_group(group) for group in self.removed],
            "kept": [_group(group) for group in self.kept],
            "not_removed": {
                "number": len(self.not_removed),
                "first": [each._asdict() for each in self.not_removed[:_SHOWN_KEYS]],
            },
        }


def _group(group: Group) -> dict[str, Any]:
    return {
        "first": group.first,
        "last": group.last,
        "pieces": group.pieces,
        "bytes": group.size_bytes,
        "why": group.why,
    }


def lines(answer: dict[str, Any]) -> Iterable[str]:
    """The answer of the API (`Retention.run`), in words."""
    would = "would go" if answer["dry_run"] else "went"
    for name, part in answer["parts"].items():
        yield f"{name}:"
        if part["held"]:
            yield f"  nothing goes: {part['held']}"
            continue
        for what, groups in ((would, part["removed"]), ("stays", part["kept"])):
            for group in groups:
                span = (
                    group["first"]
                    if group["pieces"] == 1
                    else f"{group['first']} … {group['last']}"
                )
                size = f"{group['bytes'] / 1e6:,.1f} MB"
                yield f"  {what:8} {span} ({group['pieces']}, {size}): {group['why']}"
        if not part["removed"]:
            yield f"  nothing {would}"
        refused = part["not_removed"]
        if refused["number"]:
            first = refused["first"][0]
            yield f"  refused  {refused['number']}, the first is {first['key']}: {first['why']}"

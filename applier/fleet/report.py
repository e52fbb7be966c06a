"""The instances as `applier list` shows them.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from applier.fleet.places import IncarnationPlaces
from applier.fleet.registry import Registered
from applier.fleet.rules import check_together, effective
from applier.settings import ApplierSettings, InstanceSettings
from logship.errors import UsageError

DECLARED, REGISTERED = "declared", "registered"


def describe(
    declared: ApplierSettings,
    registered: Registered,
    places: Mapping[str, IncarnationPlaces | None],
) -> list[dict[str, Any]]:
    """Every instance, by name.  places: of those that have a cluster.

    Keys of each: name, origin ("declared", "registered"), settings (those that are not the
    default), port, store and standby (directories; None: nothing is there yet), removing, and
    error ({code, what, hint, retryable}; None: nothing is wrong with its settings).
    """
    documents = [*_declared(declared), *_registered(declared, registered)]
    for document in documents:
        its = places.get(document["name"])
        document["store"] = str(its.wal) if its is not None else None
        document["standby"] = str(its.standby) if its is not None else None
    return sorted(documents, key=lambda each: str(each["name"]))


def _declared(settings: ApplierSettings) -> Iterator[dict[str, Any]]:
    for name, own in settings.instances.items():
        yield _document(name, DECLARED, own)


def _registered(declared: ApplierSettings, registered: Registered) -> Iterator[dict[str, Any]]:
    together = effective(declared, registered)
    for name, (registration, own) in registered.entries.items():
        if name in declared.instances:
            continue  # the settings file counts
        document = _document(name, REGISTERED, own)
        document["removing"] = registration.removing is not None
        if not document["removing"]:
            document["error"] = _misfit(together, name, own)
        yield document
    for name, error in registered.unreadable.items():
        if name not in declared.instances:
            yield _document(name, REGISTERED, None) | {"error": error.as_dict()}


def _misfit(
    together: ApplierSettings, name: str, own: InstanceSettings
) -> dict[str, object] | None:
    """What keeps it from working beside the others, as after a change of the settings file."""
    try:
        check_together(together, name, own)
    except UsageError as error:
        return error.as_dict()
    return None


def _document(name: str, origin: str, own: InstanceSettings | None) -> dict[str, Any]:
    return {
        "name": name,
        "origin": origin,
        "port": own.port if own is not None else None,
        "settings": not_default(own) if own is not None else {},
        "removing": False,
        "error": None,
    }


def not_default(own: InstanceSettings) -> dict[str, Any]:
    """What is not as it would be unsaid, as JSON has it."""
    said = {}
    for field in msgspec.structs.fields(own):
        value = getattr(own, field.name)
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if value != default:
            said[field.name] = str(value) if isinstance(value, Path) else value
    return said


def list_lines(documents: list[dict[str, Any]]) -> Iterator[str]:
    """As a table for people."""
    if not documents:
        yield "no instances; add one: applier add NAME"
        return
    rows = [("NAME", "FROM", "PORT", "STORE", "STANDBY")]
    rows += [
        (
            each["name"],
            "being removed" if each["removing"] else each["origin"],
            str(each["port"] or "-"),
            each["store"] or "-",
            each["standby"] or "-",
        )
        for each in documents
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for each in documents:
        if each["error"] is not None:
            yield ""
            yield f"{each['name']}: {each['error']['what']} [{each['error']['code']}]"
            yield f"  hint: {each['error']['hint']}"

"""What may be added, changed and removed, and the settings that come of it.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from applier.fleet.registry import Entry, Registered, Removal, Said
from applier.settings import ApplierSettings, InstanceSettings
from logship.errors import Code, RefusedError, UsageError
from logship.identity import check_instance_name
from logship.settings import suggestion

_TABLE = "settings"
"""The one setting of an instance that is a table; its entries are said one by one."""


class OnDisk(NamedTuple):
    """What the record of an instance says that is to be removed."""

    is_readable: bool
    is_promoted: bool
    """Also if a promotion was begun and has not ended."""
    restores: int
    """How many `applier restore` read from it now."""


def effective(declared: ApplierSettings, registered: Registered) -> ApplierSettings:
    """The settings file's, with the registered instances among its own.  Of a name that is in
    both the file counts; what is being removed is not there any more."""
    instances = {
        name: entry.settings
        for name, entry in registered.entries.items()
        if entry.registration.removing is None
    }
    return msgspec.structs.replace(declared, instances=instances | declared.instances)


def with_changes(said: Mapping[str, Any], changes: Mapping[str, Any], unset: Iterable[str]) -> Said:
    """`said` with `changes`, and without `unset`.  Entries of the table `settings` are named
    `settings.NAME`.  Raises UsageError(SETTINGS)."""
    result: Said = {**said, _TABLE: dict(said.get(_TABLE) or {})}
    for key in unset:
        table, name = _place(result, key)
        _check_can_be_unset(key, table is not result, name in table)
        table.pop(name, None)
        if key == _TABLE:
            result[_TABLE] = {}
    for key, value in changes.items():
        table, name = _place(result, key)
        table[name] = value
    if result[_TABLE] == {}:
        del result[_TABLE]
    return result


def _check_can_be_unset(key: str, is_entry: bool, is_set: bool) -> None:
    known = InstanceSettings.__struct_fields__
    if not is_entry and key not in known:
        hint = suggestion(key, known) or f"there are {', '.join(known)}"
        raise UsageError(Code.SETTINGS, f"{key} is not a setting of an instance", hint)
    if is_entry and not is_set:
        raise UsageError(
            Code.SETTINGS, f"{key} is not set for this instance", "`applier list --json` shows all"
        )


def _place(said: Said, key: str) -> tuple[dict[str, Any], str]:
    if key == "public_key_file":
        raise UsageError(
            Code.SETTINGS,
            "a registered instance has its shipper's key in its registration, not in a file",
            "give public_key, or --public-key-file to have the file read now",
        )
    table, _, name = key.partition(".")
    if name and table == _TABLE and isinstance(said[_TABLE], dict):
        return said[_TABLE], name
    return said, key


def check_new_name(name: str, declared: ApplierSettings, registered: Registered) -> None:
    """Raises UsageError for a name that no instance can have, RefusedError(INSTANCE_EXISTS)."""
    check_instance_name(name)
    if name in declared.instances:
        raise RefusedError(
            Code.INSTANCE_EXISTS,
            f"{name} is declared in the settings file",
            "choose another name, or change it there",
        )
    if name in registered.unreadable:
        raise registered.unreadable[name]
    entry = registered.entries.get(name)
    if entry is None:
        return
    if entry.registration.removing is not None:
        raise RefusedError(
            Code.INSTANCE_EXISTS,
            f"{name} is being removed, and some of it is still there",
            f"`applier remove {name}` goes on with it",
        )
    raise RefusedError(
        Code.INSTANCE_EXISTS,
        f"there is an instance {name} already",
        f"`applier change {name}` changes it",
    )


def registered_entry(name: str, declared: ApplierSettings, registered: Registered) -> Entry:
    """The entry of an instance that is to be changed or removed.

    Raises RefusedError(INSTANCE_DECLARED), UsageError(UNKNOWN_INSTANCE), or
    LogshipError(REGISTRATION_DAMAGED).
    """
    if name in declared.instances:
        raise RefusedError(
            Code.INSTANCE_DECLARED,
            f"{name} is declared in the settings file",
            f"change or remove [instances.{name}] there, and restart the applier",
        )
    if name in registered.unreadable:
        raise registered.unreadable[name]
    try:
        return registered.entries[name]
    except KeyError:
        known = ", ".join(sorted(registered.entries)) or "none"
        raise UsageError(
            Code.UNKNOWN_INSTANCE,
            f"there is no registered instance {name!r}",
            f"registered here: {known}",
        ) from None


def check_together(settings: ApplierSettings, name: str, candidate: InstanceSettings) -> None:
    """Whether `candidate` fits beside all others: its own port and key, and a road.

    settings: the effective ones.  Raises UsageError(SETTINGS) with everything that is wrong.
    """
    others = {each: own for each, own in settings.instances.items() if each != name}
    # Last, so that it is the one that is complained of.
    together = msgspec.structs.replace(settings, instances={**others, name: candidate})
    found = [each for each in together.contradictions() if each.key[:2] == ("instances", name)]
    if found:
        raise UsageError(
            Code.SETTINGS,
            "; ".join(each.what for each in found),
            "; ".join(dict.fromkeys(each.hint for each in found)),
        )


def check_key_is_its_own(name: str, key: str, owners: Mapping[str, str], ours: str) -> None:
    """owners: instance by public key.  ours: the applier's.  Raises
    RefusedError(KEY_NOT_ALLOWED)."""
    if key == ours:
        raise RefusedError(
            Code.KEY_NOT_ALLOWED,
            f"the key {key} is the applier's own",
            f"give the one of the shipper of {name}: it is in the .pub file on the primary's host",
        )
    owner = owners.get(key, name)
    if owner != name:
        raise RefusedError(
            Code.KEY_NOT_ALLOWED,
            f"the key {key} is the one of {owner}",
            "make a pair for each shipper: shipper keygen",
        )


def taken_ports(settings: ApplierSettings, link_port: int) -> frozenset[int]:
    """Ports that are spoken for, whether anything listens there now or not."""
    return frozenset({link_port, *(own.port for own in settings.instances.values())})


def plan_removal(name: str, found: OnDisk, *, keep_data: bool, promoted: bool) -> Removal:
    """What becomes of it.  keep_data, promoted: as the operator said.

    Raises RefusedError: ALREADY_PROMOTED, or REMOVE_REFUSED while something reads it.
    """
    if found.restores and not keep_data:
        raise RefusedError(
            Code.REMOVE_REFUSED,
            f"a restore or a drill reads what is kept of {name}",
            "wait for its end, or keep the data: --keep-data",
        )
    maybe = found.is_promoted or not found.is_readable
    if maybe and not (keep_data or promoted):
        raise RefusedError(
            Code.ALREADY_PROMOTED,
            f"{name} was promoted: its server is production"
            if found.is_readable
            else _may_be_promoted(name),
            "--keep-data leaves the server and its data alone, --promoted removes both",
        )
    return Removal(keep_data=keep_data, keep_server=keep_data and maybe)


def check_port_change(name: str, found: OnDisk, old: int, new: int) -> None:
    """Raises RefusedError(ALREADY_PROMOTED): clients connect to the port."""
    if new == old:
        return
    if not found.is_readable:
        raise RefusedError(
            Code.ALREADY_PROMOTED,
            _may_be_promoted(name),
            f"mend it first: shipper status {name}",
        )
    if found.is_promoted:
        raise RefusedError(
            Code.ALREADY_PROMOTED,
            f"{name} was promoted: its clients connect to port {old}",
            "take the server over first: run_standby=false, then change it in its own settings",
        )


def _may_be_promoted(name: str) -> str:
    return f"the record of {name} can't be read: it may have been promoted"

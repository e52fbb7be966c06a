"""What `shipper check` says of a primary.  Pure: facts in, findings out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from logship.checks import Check, fail, ok, warn
from logship.wal import PAGE_MAGIC
from shipper.commands.primary_facts import PrimaryFacts
from shipper.settings import ShipperSettings

SUPPORTED_MAJORS: Final = tuple(sorted(PAGE_MAGIC))


def check_primary(facts: PrimaryFacts, settings: ShipperSettings) -> Iterator[Check]:
    """Every rule, passed or not."""
    yield _version(facts)
    yield _is_primary(facts)
    yield _role(facts)
    yield _monitoring(facts)
    yield _wal_level(facts)
    yield _walsenders(facts, settings)
    if settings.primary.source == "archive":
        yield _archive_mode(facts)
    else:
        yield from _streaming(facts, settings)
    yield from _safety(facts)
    yield _protection(facts, settings)


def _streaming(facts: PrimaryFacts, settings: ShipperSettings) -> Iterator[Check]:
    yield _slot(facts, settings)
    yield _slot_limit(facts)
    if facts.parameters.get("idle_replication_slot_timeout", "0") != "0":
        yield warn(
            "idle_replication_slot_timeout",
            "the primary invalidates slots that nobody reads from",
            "an outage longer than that costs a new seed: set idle_replication_slot_timeout to 0",
        )
    yield _timeout(facts, settings)


def _archive_mode(facts: PrimaryFacts) -> Check:
    mode = facts.parameters.get("archive_mode", "off")
    if mode != "off":
        return ok("archive_mode", f"archive_mode is {mode}")
    return fail(
        "archive_mode",
        'archive_mode is off, and primary.source is "archive": nothing fills the outbox',
        "set on the primary what `shipper outbox-command` prints, and restart it",
    )


def _version(facts: PrimaryFacts) -> Check:
    major, minor = divmod(facts.version_num, 10000)
    if major in SUPPORTED_MAJORS:
        return ok("version", f"PostgreSQL {major}.{minor}")
    return fail(
        "version",
        f"PostgreSQL {major}.{minor} is not supported",
        f"Logship ships {SUPPORTED_MAJORS[0]} to {SUPPORTED_MAJORS[-1]}",
    )


def _is_primary(facts: PrimaryFacts) -> Check:
    if not facts.in_recovery:
        return ok("is-primary", "the server takes writes")
    return fail(
        "is-primary",
        "the server is a standby",
        "name the primary; with several hosts add target_session_attrs=read-write",
    )


def _role(facts: PrimaryFacts) -> Check:
    if facts.may_replicate:
        return ok("role", f"role {facts.role} may replicate")
    return fail(
        "role",
        f"role {facts.role} has no REPLICATION attribute",
        f'on the primary: ALTER ROLE "{facts.role}" REPLICATION',
    )


def _monitoring(facts: PrimaryFacts) -> Check:
    if facts.may_monitor:
        return ok("monitoring", f"role {facts.role} may read statistics")
    return warn(
        "monitoring",
        f"role {facts.role} may not read statistics, so the protection in effect stays unknown",
        f'on the primary: GRANT pg_monitor TO "{facts.role}"',
    )


def _wal_level(facts: PrimaryFacts) -> Check:
    level = facts.parameters.get("wal_level", "")
    if level in ("replica", "logical"):
        return ok("wal_level", f"wal_level is {level}")
    return fail(
        "wal_level",
        f"wal_level is {level}: its WAL can't feed a standby",
        "set wal_level = replica on the primary and restart it",
    )


def _walsenders(facts: PrimaryFacts, settings: ShipperSettings) -> Check:
    limit = int(facts.parameters.get("max_wal_senders", "0"))
    free = limit - facts.walsenders_of_others
    what = f"{max(0, free)} of {limit} max_wal_senders are free for the shipper"
    if free < 1:
        return fail("max_wal_senders", what, "raise max_wal_senders on the primary and restart it")
    if free < 2 and settings.primary.source == "stream":
        return warn(
            "max_wal_senders",
            what + ", and a seed needs a second while WAL streams",
            "raise max_wal_senders on the primary and restart it",
        )
    return ok("max_wal_senders", what)


def _slot(facts: PrimaryFacts, settings: ShipperSettings) -> Check:
    name, slot = settings.slot_name, facts.slot
    if slot is None:
        return _missing_slot(facts, settings)
    if slot.slot_type != "physical":
        return fail(
            "slot",
            f"slot {name} is a {slot.slot_type} one",
            "choose another name in primary.slot",
        )
    if slot.wal_status == "lost":
        return fail(
            "slot",
            f"slot {name} is lost: the primary removed WAL that was not shipped",
            f"SELECT pg_drop_replication_slot('{name}'), raise max_slot_wal_keep_size, "
            "and have the instance seeded anew",
        )
    if slot.active_application not in (None, "", settings.application_name):
        return fail(
            "slot",
            f"{slot.active_application} streams from slot {name}",
            "stop it, or choose another name in primary.slot",
        )
    if slot.wal_status == "unreserved":
        return warn(
            "slot",
            f"slot {name} is about to lose WAL that was not shipped",
            "start the shipper now, or raise max_slot_wal_keep_size",
        )
    used = "a shipper streams from it" if slot.active_application is not None else "not in use"
    return ok("slot", f"slot {name} keeps WAL from {slot.restart_lsn or 'its first use'}; {used}")


def _missing_slot(facts: PrimaryFacts, settings: ShipperSettings) -> Check:
    name = settings.slot_name
    limit = int(facts.parameters.get("max_replication_slots", "0"))
    if facts.slots_in_use >= limit:
        return fail(
            "slot",
            f"there is no slot {name}, and all {limit} max_replication_slots are taken",
            "raise max_replication_slots on the primary and restart it, or drop an unused slot",
        )
    if not settings.primary.create_slot:
        return fail(
            "slot",
            f"there is no slot {name}, and primary.create_slot is false",
            f"on the primary: SELECT pg_create_physical_replication_slot('{name}', true)",
        )
    return ok("slot", f"slot {name} will be created")


def _slot_limit(facts: PrimaryFacts) -> Check:
    limit = facts.parameters.get("max_slot_wal_keep_size", "-1")
    if limit != "-1":
        return ok("max_slot_wal_keep_size", f"a slot keeps up to {limit} MB of WAL")
    return warn(
        "max_slot_wal_keep_size",
        "there is no limit to the WAL that a slot keeps: a long outage fills the primary's disk",
        "set max_slot_wal_keep_size on the primary to what its disk can spare, and reload",
    )


def _timeout(facts: PrimaryFacts, settings: ShipperSettings) -> Check:
    timeout_seconds = int(facts.parameters.get("wal_sender_timeout", "0")) / 1000
    interval_seconds = settings.primary.status_interval_seconds
    what = f"wal_sender_timeout is {timeout_seconds:g} s, the shipper reports every"
    what += f" {interval_seconds:g} s"
    if timeout_seconds == 0 or interval_seconds <= timeout_seconds / 2:
        return ok("wal_sender_timeout", what)
    return fail(
        "wal_sender_timeout",
        f"{what}: the primary will cut the connection",
        "lower primary.status_interval_seconds to less than half of it",
    )


def _safety(facts: PrimaryFacts) -> Iterator[Check]:
    for name, danger in (
        ("fsync", "a crash of the primary may corrupt it, and standbys with it"),
        ("full_page_writes", "a page torn by a crash stays torn, on standbys as well"),
    ):
        if facts.parameters.get(name) == "off":
            yield warn(name, f"{name} is off: {danger}", f"set {name} = on on the primary")
        else:
            yield ok(name, f"{name} is on")


def _protection(facts: PrimaryFacts, settings: ShipperSettings) -> Check:
    names = facts.parameters.get("synchronous_standby_names", "")
    named = names_standby(names, settings.application_name)
    commit = facts.parameters.get("synchronous_commit", "on")
    name = settings.application_name
    if settings.protection == "async":
        if named and commit not in ("off", "local"):
            return warn(
                "protection",
                f"protection is async, but synchronous_standby_names counts on {name}",
                'set protection = "sync", or take it out of synchronous_standby_names',
            )
        return ok("protection", "async: commits do not wait")
    if not named:
        return fail(
            "protection",
            f"protection is sync, but synchronous_standby_names is {names!r}: nothing waits",
            f"on the primary: synchronous_standby_names = 'FIRST 1 ({name})', and reload",
        )
    if commit in ("off", "local"):
        return warn(
            "protection",
            f"synchronous_commit is {commit}: commits do not wait unless a session sets it",
            "set synchronous_commit = on on the primary",
        )
    return ok("protection", f"sync: commits wait for {name}")


def names_standby(setting: str, application_name: str) -> bool:
    """Whether a synchronous_standby_names setting names `application_name`.

    Grammar: `[FIRST | ANY] n (name, …)` or `name, …`; a name may be quoted, `*` is every
    standby, and case does not matter (`syncrep_gram.y`, `pg_strcasecmp` in syncrep.c).
    """
    inside = re.search(r"\((.*)\)", setting, re.DOTALL)
    members = inside[1] if inside else setting
    names = re.findall(r'"((?:[^"]|"")*)"|([^\s,]+)', members)
    wanted = application_name.lower()
    return any(
        plain == "*" or (quoted.replace('""', '"') or plain).lower() == wanted
        for quoted, plain in names
    )

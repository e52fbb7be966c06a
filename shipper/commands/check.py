"""Find everything that would stop `shipper run`, all of it at once, with remedies.

Looks at the settings, the keys, the state directory, the primary (in an ordinary and in a
replication connection), the way to the applier and the bucket, where it writes an object and
removes it.  Changes nothing else.  Exits 3 if anything fails; warnings do not count.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from logship.checks import (
    Check,
    check_directory,
    fail,
    failed,
    ok,
    show,
    warn,
)
from logship.commandline import add_config_argument, add_json_argument
from logship.errors import LogshipError
from logship.logs import set_up_logs
from shipper.settings import (
    DEFAULT_SETTINGS_FILE,
    LinkSettings,
    ShipperSettings,
    load_shipper_settings,
)

if TYPE_CHECKING:
    from logship.identity import Profile
    from logship.link.keys import KeyPair
    from logship.lsn import Position
    from shipper.sources.primary import PrimaryQueries

LINK_TIMEOUT_SECONDS: Final = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_argument(parser, DEFAULT_SETTINGS_FILE)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    settings = load_shipper_settings(args.config)
    set_up_logs(settings.log)
    checks = [ok("settings", f"{args.config} says how to ship {settings.instance}")]
    checks.append(check_directory("state-directory", settings.instance_directory))
    if settings.archive.outbox is not None and settings.primary.source == "archive":
        checks.append(check_outbox(settings.archive.outbox, keep=settings.archive.keep))
    if settings.archive.fill_gaps_from is not None:
        checks.append(check_archive(settings.archive.fill_gaps_from))
    checks += check_primary_server(settings)
    if settings.link is not None:
        checks += check_link_and_keys(settings.link)
    if settings.bucket is not None:
        from shipper.commands.bucket_checks import check_bucket

        checks += check_bucket(
            settings, settings.bucket, lambda: asyncio.run(_ask_position(settings))
        )
    return show(checks, as_json=args.json)


def check_outbox(outbox: Path, *, keep: bool) -> Check:
    """That files can be read from the outbox, and removed unless they are kept."""
    if not outbox.is_dir():
        return fail(
            "outbox",
            f"{outbox} is not there, or is not a directory",
            "`shipper outbox-command` prints how it is made; if it is mounted, mount it",
        )
    if not os.access(outbox, os.R_OK | os.X_OK | (0 if keep else os.W_OK)):
        return fail(
            "outbox",
            f"{outbox} can't be read{'' if keep else ' and written to'} by this user",
            "run the shipper as the account that PostgreSQL runs as, or in its group",
        )
    return ok("outbox", f"{outbox}{' (files are kept)' if keep else ''}")


def check_archive(archive: Path) -> Check:
    """That the primary's archive can be read."""
    if archive.is_dir() and os.access(archive, os.R_OK | os.X_OK):
        return ok("archive", f"{archive} fills gaps")
    return fail(
        "archive",
        f"{archive} is no directory that this user can read",
        "mount it, or give this user the right to read it: archive.fill_gaps_from names it",
    )


def check_primary_server(settings: ShipperSettings) -> Iterator[Check]:
    """The primary, as far as it answers."""
    from shipper.commands.primary_facts import read_facts
    from shipper.commands.primary_rules import check_primary

    yield from _several_hosts(settings)
    try:
        facts = read_facts(settings)
    except LogshipError as error:
        yield failed("primary", error)
    else:
        yield ok("primary", f"answers role {facts.role}")
        yield from check_primary(facts, settings)
        yield asyncio.run(_check_databases(settings))
    yield asyncio.run(_check_replication(settings))


def _queries(settings: ShipperSettings) -> PrimaryQueries:
    """Of no slot; the caller closes them."""
    from shipper.sources.primary import PrimaryQueries

    return PrimaryQueries(
        settings.primary.conninfo,
        application_name=f"{settings.application_name}_check",
        slot="",
        timeout_seconds=settings.primary.connect_timeout_seconds,
    )


async def _ask_position(settings: ShipperSettings) -> tuple[Profile, Position] | None:
    """What the primary is, and how far it has got; None: it does not say, and is said to."""
    from logship.lsn import Position

    queries = _queries(settings)
    try:
        state = await queries.primary_state()
        return await queries.profile(), Position(state.timeline, state.flush_lsn)
    except LogshipError:
        return None
    finally:
        await queries.close()


async def _check_databases(settings: ShipperSettings) -> Check:
    """Whether all that the version check compares can be read."""
    from shipper.sources.environment import EnvironmentWatch

    queries = _queries(settings)
    try:
        environment = (await EnvironmentWatch(queries).open(await queries.profile())).environment
    except LogshipError as error:
        return failed("databases", error)
    finally:
        await queries.close()
    if environment is not None and environment.is_complete:
        return ok("databases", f"what is in them can be read ({len(environment.databases)})")
    return warn(
        "databases",
        "the version check will not compare what could not be read: "
        + ", ".join(environment.unread if environment is not None else ()),
        "let the role into every database (pg_hba.conf, CONNECT), with pg_monitor: "
        "ops/primary-role.sql has the lines",
    )


async def _check_replication(settings: ShipperSettings) -> Check:
    from logship.postgres.replication import ReplicationConnection

    try:
        async with await ReplicationConnection.connect(
            settings.primary.conninfo,
            application_name=f"{settings.application_name}_check",
            timeout_seconds=settings.primary.connect_timeout_seconds,
        ) as connection:
            identity = await connection.identify_system()
            return ok(
                "replication",
                f"{connection.target} takes replication connections; system identifier "
                f"{identity.system_identifier}, timeline {identity.timeline}",
            )
    except LogshipError as error:
        return failed("replication", error)


def _several_hosts(settings: ShipperSettings) -> Iterator[Check]:
    from psycopg.conninfo import conninfo_to_dict

    parameters = conninfo_to_dict(settings.primary.conninfo)
    hosts = str(parameters.get("host") or parameters.get("hostaddr") or "")
    wanted = parameters.get("target_session_attrs")
    if "," in hosts and wanted not in ("read-write", "primary"):
        yield warn(
            "hosts",
            "primary.conninfo names several hosts and takes the first that answers",
            "add target_session_attrs=read-write to it",
        )


def check_link_and_keys(link: LinkSettings) -> Iterator[Check]:
    """The keys, and whether the applier takes a connection with them."""
    from logship.link.keys import load_pair, load_public

    keys = applier_key = None
    try:
        keys = load_pair(link.secret_key_file)
        yield ok("secret-key", f"{link.secret_key_file}; its public key is {keys.public}")
    except LogshipError as error:
        yield failed("secret-key", error)
    try:
        applier_key = load_public(link.applier_key)
        yield ok("applier-public-key", applier_key)
    except LogshipError as error:
        yield failed("applier-public-key", error)
    if keys is not None and applier_key is not None:
        yield asyncio.run(_check_link(link.address, applier_key, keys))
    else:
        yield warn("link", "not tried: it needs both keys", "mend the keys first")


async def _check_link(address: str, applier_key: str, keys: KeyPair) -> Check:
    from logship.link.transport import Dealer

    dealer = Dealer(
        address,
        server_public_key=applier_key,
        keys=keys,
        on_message=lambda _parts: None,
        on_closed=lambda _error: None,
    )
    try:
        await dealer.connect(LINK_TIMEOUT_SECONDS)
    except LogshipError as error:
        return failed("link", error)
    dealer.close()
    return ok("link", f"the applier at {address} knows our key, and we know its")

"""`shipper promote --offline`: an applier of its own, for one instance and one promotion."""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from pathlib import Path
from typing import Any

from applier.api.operations import Report
from applier.fleet.registry import Registry
from applier.fleet.rules import effective
from applier.operations.promotion import promote
from applier.service.service import Service
from applier.settings import ApplierSettings
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.identity import Incarnation


def promote_offline(
    settings: ApplierSettings, name: str, report: Report, incarnation: Incarnation | None = None
) -> dict[str, Any]:
    """Promote `name` while no applier runs, from this server's own disk alone.

    incarnation: which of its clusters; None: the one that it is.

    Raises RefusedError/LogshipError as `promote`, and STORE_LOCKED if an applier does run.
    """
    registered = Registry(settings.directory).load()
    if name in registered.unreadable:
        raise registered.unreadable[name]
    instances = effective(settings, registered).instances
    if name not in instances:
        known = ", ".join(sorted(instances))
        raise UsageError(
            Code.UNKNOWN_INSTANCE, f"there is no instance {name!r}", f"instances here: {known}"
        )
    become_owner(settings.directory)
    try:
        return asyncio.run(_promote_offline(settings, name, report, incarnation))
    except LogshipError as error:
        if error.code not in (Code.SOCKET_IN_USE, Code.STORE_LOCKED):
            raise
        raise RefusedError(
            Code.STORE_LOCKED,
            f"an applier is running on {settings.directory}",
            f"let it do it: shipper promote {name}, without --offline",
        ) from error


def become_owner(directory: Path) -> None:
    """As root, go on as the user whose directory it is: what root would leave behind there, the
    applier could not read any more."""
    try:
        owner = directory.stat().st_uid
    except OSError:
        return  # `open` says it better
    if os.geteuid() != 0 or owner == 0:
        return
    account = pwd.getpwuid(owner)
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(owner)
    os.environ["HOME"] = account.pw_dir


async def _promote_offline(
    settings: ApplierSettings, name: str, report: Report, incarnation: Incarnation | None
) -> dict[str, Any]:
    started_at = time.monotonic()
    service = Service(settings)
    # Whatever is wrong with the cluster that it is now, an older one may be sound.
    await service.open([name], each_for_itself=incarnation is not None)
    try:
        instance = service.open_instances[name]
        return await promote(
            instance, report, offline=True, started_at=started_at, incarnation=incarnation
        )
    finally:
        await service.close()

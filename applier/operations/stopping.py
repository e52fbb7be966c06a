"""Stopping the servers with the applier, where all that runs ends with it: in a container."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

import structlog

from applier.operations.instance import Instance
from logship.errors import LogshipError
from logship.postgres.process import stop_server

log = structlog.get_logger(__name__)


def data_directories(instances: Iterable[Instance]) -> list[Path]:
    """Where servers of `instances` may run: a cluster of before may have been promoted."""
    directories = []
    for instance in instances:
        record = instance.record
        clusters = [(each.incarnation, each.volumes) for each in record.previous]
        if record.incarnation is not None:
            clusters.append((record.incarnation, record.volumes))
        directories += [instance.places_of(*each).standby / "data" for each in clusters]
    return directories


async def stop_servers(directories: Sequence[Path]) -> None:
    """Stop (fast) what runs in `directories`, all at once, and wait for it.  Never raises: what
    does not stop is logged.  Call it when nothing is left that would start them again."""
    stopped = await asyncio.gather(
        *(asyncio.to_thread(stop_server, each) for each in directories), return_exceptions=True
    )
    for directory, outcome in zip(directories, stopped, strict=True):
        if isinstance(outcome, LogshipError):
            log.error("a server does not stop", **outcome.as_dict())
        elif isinstance(outcome, BaseException):
            log.error("a server can't be stopped", data_directory=str(directory), why=str(outcome))
        elif outcome:
            log.info("a server is stopped", data_directory=str(directory))

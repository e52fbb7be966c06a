"""The shipper as a process: one per instance, joined from its settings."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from functools import partial
from pathlib import Path

import structlog

from logship import __version__, durable
from logship.errors import Code, LogshipError, RefusedError
from shipper.agent.agent import Agent, SendSeed
from shipper.agent.last_primary import LastPrimary, load_last_primary, save_last_primary
from shipper.agent.roads import make_destination
from shipper.destinations.link import ShipperIdentity
from shipper.health import answering
from shipper.seeding.sender import SeedSender
from shipper.settings import ShipperSettings
from shipper.sources import Source
from shipper.sources.archive import ArchiveSource
from shipper.sources.gap_filling import GapFillingSource
from shipper.sources.stream import StreamSource

log = structlog.get_logger(__name__)


def run(settings: ShipperSettings, *, take_over: bool = False) -> None:
    """Ship until SIGTERM or SIGINT.  take_over: of the bucket, whoever writes it now.

    Raises LogshipError: what makes going on senseless (settings, keys, superseded, another
    process with the same state directory).
    """
    directory = settings.instance_directory
    durable.make_directory(directory)
    lock = _lock(directory)
    try:
        asyncio.run(_ship(settings, take_over=take_over))
    finally:
        os.close(lock)  # only now: the loop has waited for its threads


async def _ship(settings: ShipperSettings, *, take_over: bool) -> None:
    directory = settings.instance_directory
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("shipper starts", instance=settings.instance, version=__version__)
    agent = _agent(settings, _shipper_id(directory), take_over=take_over)
    async with answering(directory, lambda: agent.health_report(settings.instance)):
        await agent.run(stop)
    log.info("shipper stops", instance=settings.instance)


def _source(settings: ShipperSettings, last_primary: LastPrimary | None) -> Source:
    if settings.primary.source == "archive":
        assert settings.archive.outbox is not None, "the settings were checked for it"
        return ArchiveSource(
            settings.primary.conninfo,
            outbox=settings.archive.outbox,
            memory_file=settings.instance_directory / "outbox.json",
            application_name=settings.application_name,
            keep=settings.archive.keep,
            rescan_seconds=settings.archive.rescan_seconds,
            gap_seconds=settings.archive.gap_seconds,
            connect_timeout_seconds=settings.primary.connect_timeout_seconds,
            last_profile=last_primary.profile if last_primary is not None else None,
            last_timeline=last_primary.timeline if last_primary is not None else 0,
        )
    stream = StreamSource(
        settings.primary.conninfo,
        slot=settings.slot_name,
        application_name=settings.application_name,
        create_slot=settings.primary.create_slot,
        connect_timeout_seconds=settings.primary.connect_timeout_seconds,
        status_interval_seconds=settings.primary.status_interval_seconds,
    )
    archive = settings.archive.fill_gaps_from
    return stream if archive is None else GapFillingSource(stream, archive)


def _agent(settings: ShipperSettings, shipper_id: str, *, take_over: bool) -> Agent:
    directory = settings.instance_directory
    last_primary = load_last_primary(directory)
    source = _source(settings, last_primary)
    identity = ShipperIdentity(
        instance=settings.instance,
        shipper_id=shipper_id,
        boot_id=uuid.uuid4().hex,
        protection=settings.protection,
    )
    destination = make_destination(settings, identity, take_over=take_over)
    compress = settings.link is None or settings.link.compress

    async def take_seed(send: SendSeed, system_identifier: int) -> None:
        sender = SeedSender(
            settings.primary.conninfo,
            fast_checkpoint=settings.seed.checkpoint == "fast",
            max_rate_kb_s=settings.seed.max_rate_mb_s * 1024 or None,
            compress=compress,
            system_identifier=system_identifier,
            application_name=f"{settings.application_name}_seed",
        )
        await sender.run(send)

    return Agent(
        source,
        destination,
        take_seed,
        compress=compress,
        last_primary=last_primary,
        remember=partial(save_last_primary, directory),
    )


def _lock(directory: Path) -> int:
    """Two shippers with one state directory would throw each other out for ever."""
    path = directory / "lock"
    try:
        return durable.RealDisk().lock(path)
    except BlockingIOError as error:
        raise RefusedError(
            Code.INSTANCE_BUSY,
            f"another shipper runs with the state directory {directory}",
            "stop it first, or give this one its own state_directory",
        ) from error


def _shipper_id(directory: Path) -> str:
    """Random, kept: tells a restart of this shipper from another one."""
    path = directory / "shipper-id"
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        made = uuid.uuid4().hex
        durable.write_file(path, made.encode() + b"\n")
        return made
    except (OSError, UnicodeDecodeError) as error:
        raise LogshipError(
            Code.SETTINGS, f"{path} can't be read: {error}", "remove it; a new one is made"
        ) from error

"""The applier as a process: from its start to the signal that stops it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal

import structlog

from applier.api.server import ApiServer
from applier.service.service import Service
from applier.settings import ApplierSettings
from logship import __version__
from logship.link.keys import load_pair

log = structlog.get_logger(__name__)

MANY_FILES = 65536


def run(settings: ApplierSettings) -> None:
    """The process: `serve` in an event loop of its own.  Raises LogshipError."""
    allow_many_files()
    asyncio.run(serve(settings))


def allow_many_files() -> None:
    """Raise our limit of open files, as far as we may: an instance takes five or so, and what
    shells set (1024) is meant for programs that can't count further."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(MANY_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


async def serve(settings: ApplierSettings) -> None:
    """Receive, keep and replay until SIGTERM or SIGINT.  Raises LogshipError.

    The servers run on, unless `standby.stop_with_applier` says otherwise.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.info("applier starts", version=__version__)
    async with contextlib.AsyncExitStack() as stack:
        if settings.has_link:
            load_pair(settings.link.secret_key_file)  # what is wrong with it is said at once
        service = Service(settings)
        await service.open()
        if settings.standby.stop_with_applier:
            stack.push_async_callback(service.stop_servers)
        stack.push_async_callback(service.close)
        stack.push_async_callback(service.close_roads)
        roads = service.make_roads()
        api = ApiServer(service, settings.api.socket, group=settings.api.group)
        await api.start()
        stack.push_async_callback(api.stop)
        service.finish_promotions()
        service.keep_retention()
        service.keep_looking()
        roads.start()
        # What is here by now stays.  A full collection would look at all of it, for hundreds of
        # instances a tenth of a second, in which nobody's commit gets on.
        gc.collect()
        gc.freeze()
        log.info(
            "applier is ready",
            instances=sorted(service.open_instances),
            api=str(settings.api.socket),
        )
        await stop.wait()
        if settings.standby.stop_with_applier:
            log.info("applier stops, and the standbys with it")
        else:
            log.info("applier stops; the standbys run on")

"""How the server of a restore is to be, and what runs it, as the applier's settings say."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from applier.restore.restoring import Machine, OpenMode, Place
from applier.settings import ApplierSettings
from logship.postgres.installations import discover
from logship.postgres.run_as import RunAs


def place_of(
    settings: ApplierSettings,
    name: str,
    into: Path,
    port: int,
    *,
    open_mode: OpenMode = "promote",
    listen_addresses: str = "localhost",
) -> Place:
    """With the parameters of the instance's standby, or of any, if the settings do not have it."""
    own = settings.instances.get(name)
    standby = settings.standby
    return Place(
        into=into.absolute(),
        port=port,
        open_mode=open_mode,
        listen_addresses=listen_addresses,
        shared_buffers_mb=(
            standby.shared_buffers_mb if own is None else settings.shared_buffers_mb_of(name)
        ),
        settings=standby.settings if own is None else settings.parameters_of(name),
        keep_free_bytes=settings.store.keep_free_mb << 20,
    )


@contextlib.contextmanager
def machine_of(settings: ApplierSettings, name: str) -> Iterator[Machine]:
    """Raises LogshipError as `RunAs.of`.  Blocks for a few milliseconds an installation."""
    run_as = RunAs.of(settings.postgres.run_as or None)
    installations = discover(settings.postgres.installations, run_as=run_as)
    own = settings.instances.get(name)
    overrides = frozenset(() if own is None else own.overrides)
    may_be_private = settings.standby.private_paths == "auto"
    with _probe_cache(settings) as cache:
        yield Machine(installations, run_as, cache, overrides, may_be_private)


@contextlib.contextmanager
def _probe_cache(settings: ApplierSettings) -> Iterator[Path]:
    """The applier's own; of another user's applier none, as it could not read what we leave."""
    try:
        is_ours = settings.directory.stat().st_uid == os.geteuid()
    except OSError:
        is_ours = False
    if is_ours:
        yield settings.directory / "installations"
        return
    with tempfile.TemporaryDirectory(prefix="logship-installations-") as directory:
        yield Path(directory)

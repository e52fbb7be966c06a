"""The standby that would be, as the version check compares it with its primary."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from applier.compat import DataDirectoryFacts, StandbyProfile
from applier.operations.host import Host
from logship.environment import Environment, library_list
from logship.postgres.control_file import read_control_file
from logship.postgres.installations import Installation


async def standby_profile(
    host: Host,
    installation: Installation,
    environment: Environment | None,
    parameters: Mapping[str, object],
    data: Path | None = None,
) -> StandbyProfile:
    """Of `installation` on this recovery server, and of the data directory `data`, if any.

    environment: the primary's; what the host makes of its collations is looked up.
    parameters: the standby's own, as its settings have them.
    Raises LogshipError: the installation, or the data directory, can't be read.
    """
    lowered = {key.lower(): value for key, value in parameters.items()}
    preloaded = str(lowered.get("shared_preload_libraries", ""))
    made, surroundings = await host.surroundings.describe(installation, environment)
    facts = None
    if data is not None:
        facts = DataDirectoryFacts.of(await asyncio.to_thread(read_control_file, data))
    no_private_paths = None
    if environment is not None and environment.tablespaces:
        no_private_paths = await asyncio.to_thread(host.path_permission.why_not)
    return StandbyProfile.of(
        made,
        facts,
        host=surroundings,
        preload_libraries=library_list(preloaded),
        no_private_paths=no_private_paths,
    )

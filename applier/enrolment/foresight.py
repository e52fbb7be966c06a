"""What a primary that joins can be told of its standby, before there is one."""

from __future__ import annotations

import asyncio

from applier.compat import Outcome, StandbyProfile, check
from applier.operations.host import Host
from logship.errors import LogshipError
from logship.identity import Profile
from logship.postgres.installations import choose
from logship.postgres.probe import probe


async def foresee(host: Host, profile: Profile) -> list[str]:
    """What the version check has against the installation that would run the standby, one
    sentence or two each; nothing if it passes.

    WAL is received and stored in any case, so this refuses nobody.
    """
    try:
        installation = choose(host.installations, profile.major, profile.server_version_num)
        made = await probe(installation, host.run_as, host.probe_cache)
    except LogshipError as error:
        return [f"{error.what}. {error.hint}"]
    no_private_paths = None
    if profile.environment is not None and profile.environment.tablespaces:
        no_private_paths = await asyncio.to_thread(host.path_permission.why_not)
    standby = StandbyProfile.of(made, no_private_paths=no_private_paths)
    concerns = check(profile, standby, None).concerns
    return [
        f"{each.rule} {'blocks' if each.outcome is Outcome.BLOCK else 'warns'} "
        f"({each.primary} / {each.standby}): {each.why} Remedy: {each.remedy}"
        for each in concerns
    ]

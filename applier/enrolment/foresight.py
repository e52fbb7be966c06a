"""What a primary that joins can be told of its standby, before there is one."""

from __future__ import annotations

from applier.compat import Outcome, check
from applier.operations.host import Host
from applier.operations.standby_profile import standby_profile
from logship.errors import LogshipError
from logship.identity import Profile
from logship.postgres.installations import Installation, choose, newest_of


async def foresee(host: Host, name: str, profile: Profile) -> list[str]:
    """What the version check has against the installation that would run the standby of the
    instance `name`, one sentence or two each; nothing if it passes.

    WAL is received and stored in any case, so this refuses nobody.
    """
    settings = host.settings
    own = settings.instances.get(name)
    overrides = frozenset(own.overrides if own is not None else ())
    parameters = settings.parameters_of(name) if own is not None else settings.standby.settings
    try:
        installation = _choose(host.installations, profile)
        standby = await standby_profile(host, installation, profile.environment, parameters)
    except LogshipError as error:
        return [f"{error.what}. {error.hint}"]
    concerns = check(profile, standby, None, overrides).concerns
    return [
        f"{each.rule} {'blocks' if each.outcome is Outcome.BLOCK else 'warns'} "
        f"({each.primary} / {each.standby}): {each.why} Remedy: {each.remedy}"
        for each in concerns
    ]


def _choose(installations: list[Installation], profile: Profile) -> Installation:
    """As for an instance: where none is new enough the check names what is wrong with the newest.
    Raises LogshipError(NO_INSTALLATION): there is none of its major."""
    try:
        return choose(installations, profile.major, profile.server_version_num)
    except LogshipError:
        newest = newest_of(installations, profile.major)
        if newest is None:
            raise
        return newest

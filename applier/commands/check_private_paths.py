"""`applier check` and tablespaces: whether a standby can have the path of one its primary makes.

Asked whether or not a primary has any: the version check warns of those that there are, and the
first one may be made at any time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from applier.compat.rules.tablespaces import REMEDY
from applier.settings import ApplierSettings
from logship.checks import Check, ok, warn
from logship.errors import LogshipError
from logship.postgres import private_paths
from logship.postgres.run_as import RunAs


def check_private_paths(
    settings: ApplierSettings, ask: Callable[[RunAs], str] = private_paths.why_not
) -> Iterator[Check]:
    """Nothing where no standby is run, or nobody is there to run it, which others say."""
    instances = settings.instances.values()
    if instances and not any(instance.run_standby for instance in instances):
        return
    if settings.standby.private_paths == "never":
        yield ok(
            "private-paths",
            'standby.private_paths is "never": a tablespace that a primary makes holds its standby '
            "until its directory is made here",
        )
        return
    with contextlib.suppress(LogshipError):
        why_not = ask(RunAs.of(settings.postgres.run_as or None))
        if why_not:
            yield warn(
                "private-paths",
                "a tablespace that a primary makes would hold its standby, which can't be promoted "
                f"then: {why_not}",
                REMEDY,
            )
        else:
            yield ok("private-paths", "standbys can have the paths of their primaries' tablespaces")

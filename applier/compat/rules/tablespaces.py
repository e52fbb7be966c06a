"""Whether a standby can have the paths of tablespaces that its primary makes."""

from __future__ import annotations

from typing import Final

from applier.compat.case import PASS, WARN, Answer, Case, listed

REMEDY: Final = (
    "permit user namespaces to the account of the standbys (docs/tablespaces.md); else, "
    "whenever the primary is to get another tablespace, first make its directory on the "
    "recovery server, empty and owned by that account"
)


def tablespaces(case: Case) -> Answer:
    environment = case.primary.environment
    locations = [] if environment is None else [each.location for each in environment.tablespaces]
    shown = listed(locations)
    why_not = case.standby.no_private_paths
    if why_not is None or not locations:
        return Answer(PASS, shown, "")
    if not why_not:
        return Answer(PASS, shown, "paths of its own")
    return Answer(
        WARN,
        shown,
        f"the machine's paths: {why_not}",
        REMEDY,
    )

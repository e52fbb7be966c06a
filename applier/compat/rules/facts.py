"""Whether all that is compared is known, of the primary and of the recovery server."""

from __future__ import annotations

import re

from applier.compat.case import PASS, WARN, Answer, Case, listed
from logship.environment import THE_CATALOGS

_MORE_DATABASES = re.compile(r"\A[0-9]+ more databases")


def primary_facts(case: Case) -> Answer:
    environment = case.primary.environment
    if environment is None:
        return Answer(
            WARN,
            "nothing was told",
            "",
            "upgrade the shipper: one of this version tells what surrounds its primary",
        )
    if environment.is_complete:
        return Answer(PASS, "complete", "")
    more = [each for each in environment.unread if _MORE_DATABASES.match(each)]
    refused = [each for each in environment.unread if each not in (THE_CATALOGS, *more)]
    remedies = []
    if THE_CATALOGS in environment.unread or not environment.unread:
        remedies.append(
            "see in the shipper's log why the primary did not answer; it is asked again by itself"
        )
    if refused:
        remedies.append(
            "let the shipper's role into these databases (pg_hba.conf, CONNECT) and give it "
            "pg_monitor: ops/primary-role.sql has the lines"
        )
    if more:
        remedies.append(
            "compare the locales, collations and extensions of the databases that are too many "
            "to tell of by hand"
        )
    shown = f"not read: {listed(environment.unread) or 'unknown'}"
    return Answer(WARN, shown, "", "; ".join(remedies))


def host_facts(case: Case) -> Answer:
    host = case.standby.host
    if host is None:
        return Answer(
            WARN,
            "",
            "nothing is known",
            "see in the applier's log why the installation could not be asked (it makes a cluster "
            "in the directory for temporary files); it is asked again by itself",
        )
    parts = {
        "libraries": host.libraries,
        "extensions": host.extensions,
        "locales": host.locales,
        "ICU": host.icu,
    }
    unknown = [name for name, known in parts.items() if known is None]
    if not unknown:
        return Answer(PASS, "", "complete")
    return Answer(
        WARN,
        "",
        f"not known: {', '.join(unknown)}",
        "see that the installation is whole (pg_config, its extensions) and that the recovery "
        "server has the command locale",
    )

"""Whether the primary could be asked for all that is compared."""

from __future__ import annotations

from applier.compat.case import PASS, WARN, Answer, Case, listed


def primary_facts(case: Case) -> Answer:
    environment = case.primary.environment
    if environment is None:
        return Answer(PASS, "", "")
    if environment.is_complete:
        return Answer(PASS, "complete", "")
    return Answer(
        WARN,
        f"not read: {listed(environment.unread) or 'unknown'}",
        "",
        "let the shipper's role into these databases (pg_hba.conf, CONNECT) and give it "
        "pg_monitor: ops/primary-role.sql has the lines",
    )

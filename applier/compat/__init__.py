"""The version check: may this standby replay this primary's WAL?

A pure function over two descriptions.  `Profile` is what the primary is (read by the shipper,
sent in the hello and whenever it changes); `StandbyProfile` is what would replay it: an
installed PostgreSQL with its host, and the data directory that a seed left, once there is
one.  `check` runs every rule of `rules.RULES` over them and returns a `Verdict`: what was
compared, whether that passes, warns or blocks, why it matters, and the remedy.

What is not known of one side passes with a warning, but lifts no block: what the standby was
seen to lack is in the verdict, and is given to the next check (`lacked`).

A blocked instance keeps receiving and storing WAL.  Only the start of its standby is
withheld, by whoever asked for the verdict: nothing in here acts.  An operator may override
rules that say so, by name.

Known-bad minor releases are data, in `advisories.toml` beside this file.
docs/version-check.md lists every rule for operators.
"""

from __future__ import annotations

from applier.compat.advisories import Advisory, load_advisories
from applier.compat.case import Rule
from applier.compat.checking import check, check_override_names
from applier.compat.live import LiveFacts, OtherVersion, UnloadableLibrary, live_findings
from applier.compat.profiles import (
    CollationVersion,
    DataDirectoryFacts,
    HostFacts,
    StandbyProfile,
)
from applier.compat.rules import OVERRIDABLE_RULES, RULES
from applier.compat.rules.collations import mending_statements, used_collations
from applier.compat.verdict import Finding, Lack, Outcome, Verdict

__all__ = [
    "OVERRIDABLE_RULES",
    "RULES",
    "Advisory",
    "CollationVersion",
    "DataDirectoryFacts",
    "Finding",
    "HostFacts",
    "Lack",
    "LiveFacts",
    "OtherVersion",
    "Outcome",
    "Rule",
    "StandbyProfile",
    "UnloadableLibrary",
    "Verdict",
    "check",
    "check_override_names",
    "live_findings",
    "load_advisories",
    "mending_statements",
    "used_collations",
]

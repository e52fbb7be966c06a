"""`applier check` tells whether a tablespace will hold a standby, before a primary makes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from applier.commands.check_private_paths import check_private_paths
from applier.settings import ApplierSettings
from logship.settings import parse_settings

INSTANCE = """
[instances.orders]
port = 5433
public_key_file = "orders.pub"
"""
WITHOUT_STANDBY = f"{INSTANCE}run_standby = false\n"
WHY = "no mounts of its own: Operation not permitted"


def findings(text: str, why_not: str) -> list[tuple[str, str, str]]:
    settings = parse_settings(text, ApplierSettings, file=Path("/etc/logship/applier.toml"))
    found = check_private_paths(settings, lambda _: why_not)
    return [(each.level, each.what, each.hint) for each in found]


@pytest.mark.parametrize("text", ["", INSTANCE])
def test_it_is_warned_of_also_before_any_primary_is_known(text: str) -> None:
    ((level, what, hint),) = findings(text, WHY)
    assert level == "warn"
    assert what.endswith(f"can't be promoted then: {WHY}")
    assert hint.startswith("permit user namespaces to the account of the standbys")
    ((level, what, hint),) = findings(text, "")
    assert (level, hint) == ("ok", "")


def test_who_does_not_want_them_is_not_warned() -> None:
    ((level, what, _),) = findings(f'standby.private_paths = "never"\n{INSTANCE}', WHY)
    assert level == "ok"
    assert "until its directory is made here" in what


def test_where_no_standby_is_run_there_is_nothing_to_say() -> None:
    assert findings(WITHOUT_STANDBY, WHY) == []

"""The settings file of a rehearsal's applier, as the applier reads it; what its check said."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from applier.settings import load_applier_settings
from logship.rehearsal.outcome import RuleSaid
from logship.rehearsal.site.recovery import verdict_of
from logship.rehearsal.site.recovery_settings import Places, Told, settings_text

KEY = "IHt$SR:Z[s*bkJw[f!t6toeP9g=g+DofsfK}AlMf"


@pytest.mark.parametrize(
    ("address", "listen"),
    [
        ("127.0.0.1", "tcp://127.0.0.1:7432"),
        ("::1", "tcp://[::1]:7432"),
        ("recovery", "tcp://*:7432"),
    ],
)
def test_the_applier_reads_them(tmp_path: Path, address: str, listen: str) -> None:
    told = Told(
        instance="main",
        public_key=KEY,
        address=address,
        link_port=7432,
        standby_port=5433,
        installations=[PurePosixPath("/usr/lib/postgresql/17")],
        parameters={"max_connections": "20", "auto_explain.log_min_duration": "1s", "a_b": 'x"\\y'},
    )
    file = tmp_path / "applier.toml"
    file.write_text(settings_text(told, Places(PurePosixPath("/home"))), encoding="utf-8")
    settings = load_applier_settings(file)
    assert settings.link.listen == listen
    assert settings.directory == Path("/home/applier")
    assert settings.api.socket == Path("/home/run/applier.sock")
    main = settings.instances["main"]
    assert main.settings == told.parameters
    assert main.port == 5433


def test_verdict() -> None:
    finding = {
        "rule": "minor-order",
        "outcome": "block",
        "primary": "16.14",
        "standby": "16.9",
        "why": "a newer minor may write WAL that an older does not know",
        "remedy": "upgrade",
        "overridden": False,
    }
    verdict = verdict_of({"findings": [finding], "refused": None})
    assert verdict.rules == (
        RuleSaid("minor-order", "block", "16.14", "16.9", finding["why"], "upgrade"),
    )
    assert verdict.blocked and not verdict.refused


def test_a_shipper_that_would_be_turned_away_is_a_refusal() -> None:
    verdict = verdict_of({"findings": [], "refused": {"code": "x", "what": "it is a clone"}})
    assert verdict.refused == "it is a clone"
    assert verdict.blocked

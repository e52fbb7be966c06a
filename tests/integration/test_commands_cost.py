"""`shipper cost` on real servers: asked, watched, and told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from logship.settings_text import toml_value
from tests.conftest import PrimaryFactory
from tests.integration.command_runner import run, start
from tests.support.installations import MAJORS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


def settings_file(directory: Path, conninfo: str, **changes: object) -> Path:
    values: dict[str, object] = {
        "instance": "main",
        "state_directory": str(directory / "state"),
        "primary.conninfo": conninfo,
        "bucket.url": f"file://{directory}/bucket",
        "bucket.max_delay_seconds": 0.2,
        **changes,
    }
    file = directory / "shipper.toml"
    file.write_text("".join(f"{name} = {toml_value(value)}\n" for name, value in values.items()))
    return file


async def test_a_rate_that_is_told_asks_no_primary(tmp_path: Path) -> None:
    file = settings_file(tmp_path, "host=/nonexistent", **{"seed.every_hours": 73})
    outcome = await run(
        *("shipper", "cost", "--config", file, "--wal-mb-per-hour", "360"),
        *("--commits-per-second", "2", "--seed-gb", "1", "--put-per-1000", "0.5", "--json"),
    )
    assert outcome.code == 0, outcome
    assert outcome.document["rate"]["bytes_per_second"] == 100_000
    assert outcome.document["rate"]["windows_per_second"] == pytest.approx(1 / 0.7)
    assert outcome.document["plan"]["seeds_per_month"] == 10
    month = outcome.document["month"]
    assert outcome.document["cost"] == pytest.approx(month["put"] / 1000 * 0.5)
    text = await run("shipper", "cost", "--config", file, "--wal-mb-per-hour", "360")
    assert "360.0 MB of WAL an hour" in text.out and "at the prices" not in text.out
    assert outcome.document["assumes"] == [] and "bucket.role" not in text.out
    for number in ("-1", "x"):
        wrong = await run("shipper", "cost", "--config", file, "--wal-mb-per-hour", number)
        assert wrong.code == 2 and "_number" not in wrong.err


async def test_what_has_no_effect_is_refused_or_told(tmp_path: Path) -> None:
    file = settings_file(tmp_path, "host=/nonexistent")
    told = ("shipper", "cost", "--config", file, "--wal-mb-per-hour", "360", "--kept-seeds", "3")
    refused = await run(*told)
    assert refused.code == 2
    assert "--kept-seeds is of use with --kept-hours alone" in refused.err
    refused = await run("shipper", "cost", "--config", file, "--commits-per-second", "3")
    assert refused.code == 2
    assert "--commits-per-second is of use with --wal-mb-per-hour alone" in refused.err
    kept = await run(*told, "--kept-hours", "24", "--json")
    assert kept.document["plan"]["kept_seeds"] == 3
    assert kept.document["assumes"] == [
        "the size of a seed is not known, so seeds are not in it: --seed-gb tells it"
    ]
    kept = await run(*told, "--kept-hours", "24", "--seed-gb", "1", "--json")
    assert kept.document["assumes"] == []


async def test_it_says_what_the_settings_at_hand_are_not(tmp_path: Path) -> None:
    link = {
        "link.address": "tcp://127.0.0.1:1",
        "link.applier_public_key": "a" * 40,
        "link.secret_key_file": "/nonexistent",
    }
    spill = settings_file(tmp_path, "host=/nonexistent", **{**link, "bucket.role": "spill"})
    said = await run("shipper", "cost", "--config", spill, "--wal-mb-per-hour", "360")
    assert said.out.startswith('bucket.role is "spill": this is for one that gets all WAL'), said
    lines = spill.read_text().splitlines(keepends=True)
    spill.write_text("".join(line for line in lines if not line.startswith("bucket.")))
    said = await run("shipper", "cost", "--config", spill, "--wal-mb-per-hour", "360")
    assert said.out.startswith("there is no [bucket]"), said


@pytest.mark.parametrize("major", [MAJORS[0], MAJORS[-1]])
async def test_a_primary_is_asked_or_watched(
    primary: PrimaryFactory, tmp_path: Path, major: int
) -> None:
    server = primary(major)
    file = settings_file(tmp_path, server.dsn())
    server.execute("create table t as select g, md5(g::text) from generate_series(1, 50000) g")
    # Statistics reach those who ask a moment later.
    await asyncio.to_thread(
        wait_until,
        lambda: server.execute("select wal_bytes from pg_stat_wal")[0][0] > 0,
        30,
        "it was counted",
    )
    asked = await run("shipper", "cost", "--config", file, "--json")
    assert asked.code == 0, asked
    assert asked.document["rate"]["bytes_per_second"] > 0
    assert asked.document["rate"]["measured_seconds"] > 0
    assert asked.document["plan"]["seed_bytes"] > 1e6
    # So long that an insert which takes a second on a busy machine does not matter.
    watching = await start(
        "shipper", "cost", "--config", file, "--measure", "4", "--compression", "1", "--json"
    )
    while watching.returncode is None:
        await asyncio.to_thread(server.execute, "insert into t values (0, 'x')")
        try:
            await asyncio.wait_for(watching.wait(), 0.05)
        except TimeoutError:
            continue
    assert watching.returncode == 0
    assert watching.stdout is not None
    out = (await watching.stdout.read()).decode()
    assert '"windows_per_second"' in out
    rate = float(out.partition('"windows_per_second":')[2].partition(",")[0])
    assert 0.5 < rate <= 5.5
    missing = await run("shipper", "cost", "--config", settings_file(tmp_path, "host=/nonexistent"))
    assert missing.code == 1 and "primary" in missing.err

"""What a primary that joins is told of the standby that it would have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from applier.compat import HostFacts
from applier.enrolment.foresight import foresee
from applier.operations.host import Host
from applier.settings import ApplierSettings
from applier.walserver.server import WalServer
from logship.environment import DatabaseFacts, Environment
from logship.identity import Profile
from logship.postgres.installations import Installation
from logship.postgres.run_as import RunAs
from logship.settings import parse_settings
from tests.support.fake_intake import new_keys
from tests.support.link_frames import profile

FRENCH = DatabaseFacts(
    name="orders",
    encoding="UTF8",
    provider="c",
    collate="fr_FR.UTF-8",
    ctype="fr_FR.UTF-8",
    recorded_version="2.36",
    actual_version="2.36",
)


class Surroundings:
    """Of an installation that has a library, and no locale but C."""

    async def describe(self, *_: object) -> tuple[Profile, HostFacts]:
        facts = HostFacts(
            icu="",
            libraries=frozenset({"pg_tde"}),
            extensions={},
            locales=frozenset({"C"}),
        )
        return profile(server_version_num=170011), facts


def recovery_server(directory: Path, more: str) -> Host:
    text = f"""
directory = "{directory}"
[instances.main]
public_key = "{new_keys().public}"
port = 5433
{more}
"""
    settings = parse_settings(text, ApplierSettings, file=directory / "applier.toml")
    server = WalServer(
        directory, 5432, allowed_uids=frozenset({os.geteuid()}), on_status=lambda *_: None
    )
    found = [Installation(Path("/nowhere/bin"), 170011, "configured")]
    host = Host(settings, RunAs.of(None), found, server)
    host.surroundings = Surroundings()  # type: ignore[assignment]
    return host


async def notes(host: Host, environment: Environment, name: str = "main") -> list[str]:
    return await foresee(host, name, profile(server_version_num=170011, environment=environment))


async def test_what_the_recovery_server_lacks_is_told_with_what_to_install(tmp_path: Path) -> None:
    wanting = Environment(preload_libraries=("pg_absent",), databases=(FRENCH,))
    locale, library = await notes(recovery_server(tmp_path, ""), wanting)
    assert locale.startswith("locales blocks (fr_FR.UTF-8 / without fr_FR.UTF-8): ")
    assert "Remedy: make fr_FR.UTF-8 on the recovery server" in locale
    assert library.startswith("preload-libraries blocks (pg_absent / without pg_absent): ")
    assert "Remedy: install pg_absent for PostgreSQL 17 on the recovery server" in library


async def test_what_the_instance_overrides_or_preloads_is_heeded(tmp_path: Path) -> None:
    more = 'overrides = ["locales"]\nsettings.Shared_Preload_Libraries = "pg_tde"\n'
    host = recovery_server(tmp_path, more)
    own = Environment(
        preload_libraries=("pg_tde",), resource_managers=((140, "pg_tde"),), databases=(FRENCH,)
    )
    (locale,) = await notes(host, own)
    assert locale.startswith("locales warns")
    told = await notes(host, own, "another")
    assert [note.split(" (")[0] for note in told] == ["locales blocks", "resource-managers blocks"]


@pytest.mark.parametrize(
    ("overrides", "says"), [("", "blocks"), ('overrides = ["minor-order"]', "warns")]
)
async def test_an_older_minor_is_compared_where_there_is_no_other(
    tmp_path: Path, overrides: str, says: str
) -> None:
    host = recovery_server(tmp_path, overrides)
    newer = profile(server_version_num=170012, environment=Environment())
    (note,) = await foresee(host, "main", newer)
    assert note.startswith(f"minor-order {says} (17.12 / 17.11): ")
    host.installations = []
    (note,) = await foresee(host, "main", newer)
    assert note.startswith("no PostgreSQL 17 of at least 17.12 is on this machine")

"""What a restore takes from what the applier wrote down, and from the instance's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from applier.restore.restoring import Machine, Place, _Restore
from applier.restore.sources import Sources
from applier.standby.tablespaces import Note
from logship.environment import Environment
from logship.errors import RefusedError
from logship.identity import Profile
from logship.postgres.installations import Installation
from logship.postgres.run_as import RunAs
from tests.support.link_frames import profile


def test_a_tablespace_that_was_made_after_the_target_is_none_of_the_restores() -> None:
    """Its path may be another server's: to stop before it must be possible all the same."""
    sources = Sources("orders", profile(), cast(Any, None), cast(Any, None), [], None, None)
    early, late = (
        Note(start_lsn=lsn, oid=lsn, location="/mnt/fast", directory="1") for lsn in (100, 200)
    )
    sources.tablespaces = (early, late)
    assert sources.tablespaces_below(200) == (early,)
    assert sources.tablespaces_below(201) == (early, late)


async def test_what_the_instances_settings_preload_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A primary with a resource manager of its own is restored as its standby runs."""
    environment = Environment(preload_libraries=("pg_tde",), resource_managers=((140, "pg_tde"),))
    primary = profile(environment=environment)

    async def probed(*_: object) -> Profile:
        return msgspec.structs.replace(primary, environment=None)

    monkeypatch.setattr("applier.restore.restoring.probe", probed)
    sources = Sources("orders", primary, cast(Any, None), cast(Any, None), [], None, None)
    own = RunAs("us", 1, 1, (), changes=False)
    machine = Machine([Installation(tmp_path, 170009, "configured")], own, tmp_path)
    place = Place(into=tmp_path, port=1)

    def restoring(place: Place) -> _Restore:
        return _Restore(sources, cast(Any, None), place, machine, lambda *_: None)

    with pytest.raises(RefusedError, match="resource-managers"):
        await restoring(place).choose_installation()
    preloading = place._replace(settings={"Shared_Preload_Libraries": "pg_tde"})
    assert await restoring(preloading).choose_installation() == machine.installations[0]

"""Parameters that no server knows: who is asked, and the way back from one that is set."""

from __future__ import annotations

from pathlib import Path

import pytest

from applier.operations.parameters import check_parameters, way_back
from logship.errors import UsageError
from logship.postgres.installations import Installation
from logship.postgres.run_as import RunAs
from tests.unit.applier.operations.conftest import picky_installation

RUN_AS = RunAs.of(None)


async def test_a_parameter_that_no_installation_takes_is_refused(shared_tmp_path: Path) -> None:
    old = picky_installation(shared_tmp_path, 14, "work_memm", "new_one")
    new = picky_installation(shared_tmp_path, 18, "work_memm", "old_one")
    await check_parameters([old, new], RUN_AS, {"new_one": 1, "old_one": True, "jit": "off"})
    with pytest.raises(UsageError) as caught:
        await check_parameters([old, new], RUN_AS, {"jit": False, "work_memm": "1MB"})
    assert caught.value.what == (
        'settings.work_memm: PostgreSQL 18.0 says: unrecognized configuration parameter "work_memm"'
    )
    with pytest.raises(UsageError, match=r"settings.new_one: PostgreSQL 14.0 says"):
        await check_parameters([old], RUN_AS, {"new_one": 1})


async def test_without_anybody_to_ask_all_is_taken(shared_tmp_path: Path) -> None:
    await check_parameters([], RUN_AS, {"work_memm": "1MB"})
    gone = Installation(shared_tmp_path / "gone", 180000, "configured")
    await check_parameters([gone], RUN_AS, {"work_memm": "1MB"})


def test_the_way_back_is_by_where_it_was_set() -> None:
    why = 'FATAL:  invalid value for parameter "Work_Mem": "x" in /data/jit/temp.conf'
    assert way_back("main", ["jit"], ["temp"], why) == ""
    assert way_back("main", ["work_mem"], ["work_mem"], why) == (
        "applier change main --unset settings.work_mem (declared in the settings file: remove "
        "work_mem there, and restart the applier)"
    )
    assert way_back("main", ["mem"], ["work_mem"], why) == (
        "remove work_mem from standby.settings in the settings file, and restart the applier"
    )

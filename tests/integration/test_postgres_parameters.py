"""What servers say of parameters, without a cluster."""

from __future__ import annotations

import pytest

from logship.postgres.installations import Installation
from logship.postgres.parameters import complaint_of
from logship.postgres.run_as import RunAs
from tests.support.installations import all_majors, postgres_dir
from tests.support.processes import server_run_as

pytestmark = pytest.mark.integration


@all_majors
async def test_a_server_says_whether_it_takes_a_parameter(major: int) -> None:
    installation = Installation(postgres_dir(major) / "bin", major * 10000, "configured")

    async def said(name: str, value: str) -> str | None:
        complaint = await complaint_of(installation, server_run_as(), name, value)
        return None if complaint is None else complaint.what

    # The last one is in no list that a server prints.
    for name, value in (("work_mem", "1MB"), ("any.thing", "x"), ("trace_notify", "on")):
        assert await said(name, value) is None
    assert await said("work_memm", "1MB") == 'unrecognized configuration parameter "work_memm"'
    wrong = await said("Work_Mem", "lots")
    assert wrong is not None
    assert wrong.lower() == 'invalid value for parameter "work_mem": "lots"'
    complaint = await complaint_of(installation, server_run_as(), "log_statement", "some")
    assert complaint is not None
    assert complaint.hint == "Available values: none, ddl, mod, all."


async def test_who_is_not_there_says_nothing() -> None:
    gone = Installation(postgres_dir(18) / "none", 180000, "configured")
    assert await complaint_of(gone, RunAs.of(None), "work_memm", "1MB") is None

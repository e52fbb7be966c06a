"""Uploads end well, or the connection does: never neither."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from logship.errors import Code, LogshipError
from shipper.destinations.bucket.uploads import Upload, Uploads
from tests.support.waiting import until


def fail() -> None:
    raise RuntimeError("dictionary changed size during iteration")


def nothing() -> None:
    pass


@pytest.mark.parametrize("where", ["run", "done", "on_done"])
async def test_a_bug_in_what_follows_an_upload_ends_the_connection(where: str) -> None:
    failures: list[LogshipError] = []
    begun: list[str] = []

    async def run_blocking(action: Callable[[], None]) -> None:
        await asyncio.to_thread(action)

    uploads = Uploads(
        run_blocking,
        at_once=1,
        patience_seconds=0.0,
        on_done=fail if where == "on_done" else nothing,
        on_failed=failures.append,
    )
    uploads.put(
        Upload(
            fail if where == "run" else nothing,
            alone=True,
            done=fail if where == "done" else nothing,
        )
    )
    uploads.put(Upload(lambda: begun.append("next"), alone=True))
    await until(lambda: failures, "it is said")
    assert [each.code for each in failures] == [Code.INTERNAL]
    if where != "on_done":
        assert begun == []
    uploads.stop()

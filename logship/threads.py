"""Work in threads that must not be left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

_T = TypeVar("_T")


async def run_to_the_end(threads: Executor | None, work: Callable[[], _T]) -> _T:
    """Run `work` in one of `threads` (None: the loop's own).  A cancelled caller still waits for
    its end, so that whoever comes next does not work beside it; then it is cancelled, and what
    the work gave or raised is dropped."""
    future = asyncio.get_running_loop().run_in_executor(threads, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # looked at: asyncio does not call it forgotten
        raise

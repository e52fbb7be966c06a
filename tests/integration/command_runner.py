"""Runs `shipper` and `applier` as an operator does: the installed programs, as processes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

TIMEOUT_SECONDS = 120
"""A command may sync files to a busy disk, or start a server."""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON object that it must be."""
        return json.loads(self.out)


async def start(
    *arguments: str | Path,
    environment: dict[str, str] | None = None,
    input_pipe: int = asyncio.subprocess.DEVNULL,
    stdout: int = asyncio.subprocess.PIPE,
) -> asyncio.subprocess.Process:
    """Start one of our programs, with pipes for its output and, by default, nothing to read.

    stdout: a descriptor in place of the pipe.
    """
    program, *rest = map(str, arguments)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LOGSHIP_", "PG"))}
    return await asyncio.create_subprocess_exec(
        # Whoever runs the tests in the background has SIGINT ignored, and so would the program.
        "env",
        "--default-signal=INT",
        str(Path(sys.executable).with_name(program)),
        *rest,
        stdin=input_pipe,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        env={**clean, **(environment or {})},
    )


async def run(
    *arguments: str | Path, environment: dict[str, str] | None = None, text: str | None = None
) -> Outcome:
    """Run one of our programs to its end, with `text` on its standard input if given."""
    given = None if text is None else text.encode()
    pipe = asyncio.subprocess.DEVNULL if given is None else asyncio.subprocess.PIPE
    process = await start(*arguments, environment=environment, input_pipe=pipe)
    try:
        out, err = await asyncio.wait_for(process.communicate(given), TIMEOUT_SECONDS)
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode is not None
    outcome = Outcome(process.returncode, out.decode(), err.decode())
    assert "Traceback" not in outcome.out + outcome.err, outcome
    return outcome

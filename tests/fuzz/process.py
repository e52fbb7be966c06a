"""One target under atheris: `python -m tests.fuzz.process NAME LIBFUZZER-OPTIONS…`.

A process of its own, as libFuzzer takes over the process it runs in and ends it itself.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from random import Random

import atheris

from tests.fuzz.target import load

ROOM_BYTES = 512 << 20
"""Address space on top of what the process has once it is loaded: past it, Python raises
MemoryError, which no parser may.  Threads and allocators take their share of it."""

INSTRUMENTED = ["logship", "applier", "shipper", "tomllib"]


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = load(name)

    def run(data: bytes) -> None:
        target.run(data)

    def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
        random = Random(seed)
        if target.mutate is None or random.random() < 0.4:
            return bytes(atheris.Mutate(data, max_bytes))
        other = lambda some, most: bytes(atheris.Mutate(some, most))  # noqa: E731
        return target.mutate(data, max_bytes, random, other)[:max_bytes]

    arguments = [f"-max_len={target.max_bytes}", *sys.argv[1:]]
    arguments.insert(0, sys.argv[0])
    if target.mutate is None:
        atheris.Setup(arguments, run)
    else:
        atheris.Setup(arguments, run, custom_mutator=mutate)
    limit_memory()
    atheris.Fuzz()


if __name__ == "__main__":
    main()

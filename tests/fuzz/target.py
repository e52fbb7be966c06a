"""What a fuzz target is, and what targets share.

This module imports nothing of the product, which must be imported under instrumentation.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from random import Random
from typing import NamedTuple, Protocol, cast

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
"""Inputs that once broke something, by target."""

MAX_MESSAGE_CHARACTERS = 4096
"""Of an error: it is logged, and goes to the peer in one frame."""

MutateBytes = Callable[[bytes, int], bytes]
"""atheris's own mutation: of these bytes, to at most so many."""


class Mutate(Protocol):
    def __call__(self, data: bytes, max_bytes: int, random: Random, other: MutateBytes, /) -> bytes:
        """Another input, from `data`; `other` mutates plain bytes."""


class Target(NamedTuple):
    """A module of `targets`."""

    name: str
    run: Callable[[bytes], bool]
    """Whether the parser accepted it.  Anything raised is a finding."""
    seeds: Callable[[], Iterable[bytes]]
    """Good inputs, all different; each is accepted."""
    mutate: Mutate | None
    max_bytes: int
    """Of an input."""
    short_runs: int
    """Executions in `make test`."""
    max_memory_bytes: int
    """That one input may take in Python's memory."""

    @property
    def stored(self) -> list[Path]:
        """The inputs of its corpus."""
        directory = CORPUS / self.name
        return sorted(directory.iterdir()) if directory.is_dir() else []


def names() -> list[str]:
    """Of all targets."""
    return sorted(module.name for module in pkgutil.iter_modules([str(HERE / "targets")]))


def load(name: str) -> Target:
    """Import the target, and with it what it fuzzes.

    The module has `run` and `seeds`; it may have `mutate`, `MAX_BYTES` (4096), `SHORT_RUNS`
    (10,000) and `MAX_MEMORY_BYTES` (8 MiB).
    """
    module = import_module(f"tests.fuzz.targets.{name}")
    return Target(
        name,
        module.run,
        module.seeds,
        cast("Mutate | None", getattr(module, "mutate", None)),
        getattr(module, "MAX_BYTES", 4096),
        getattr(module, "SHORT_RUNS", 10_000),
        getattr(module, "MAX_MEMORY_BYTES", 8 << 20),
    )


class Input:
    """Takes an input apart, front to back.  Past its end everything is 0 or empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, size_bytes: int = 1) -> int:
        """Little-endian, without sign."""
        return int.from_bytes(self.take(size_bytes), "little")

    def take(self, size_bytes: int) -> bytes:
        taken = self._data[self._at : self._at + size_bytes]
        self._at += size_bytes
        return taken

    def chunk(self) -> bytes:
        """Bytes behind their own length (two bytes)."""
        return self.take(self.number(2))

    def rest(self) -> bytes:
        return self.take(len(self._data))


def chunk(data: bytes) -> bytes:
    """What `Input.chunk` reads."""
    return len(data).to_bytes(2, "little") + data


def cut(data: bytes, seed: int) -> list[bytes]:
    """`data` in pieces, some of them empty or of one byte."""
    random = Random(seed)
    pieces = []
    while data:
        size = random.choice((0, 1, 3, 24, 512, random.randrange(1, 20_000)))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def check_message(text: str) -> None:
    """An error's words: some, and not as many as the peer likes."""
    assert 0 < len(text) <= MAX_MESSAGE_CHARACTERS, len(text)

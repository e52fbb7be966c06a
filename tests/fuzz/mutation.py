"""Structural mutation of documents (MessagePack, JSON, TOML as Python values) and of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

NUMBERS: Sequence[Any] = (
    0, 1, -1, 2, 127, 128, 255, 4096, 8191, 8192, 65535, 1 << 20, (1 << 31) - 1, 1 << 31,
    (1 << 32) - 1, 1 << 32, 1 << 53, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1, 0.5, -0.0,
    1e308, float("inf"), float("nan"),
)  # fmt: skip
TEXTS: Sequence[str] = (
    "", "0", "1", "x" * 3000, "..", "../x", "/etc/passwd", "a\0b", "\ud7ff", "²", "٣", "1_0", "-1",
    "none", "zstd", "data", "archive", "manifest", "SHA256", "0/0", "FFFFFFFF/FFFFFFFF", "\n",
)  # fmt: skip


def mutate_document(document: Any, random: Random) -> Any:
    """A copy with one thing changed somewhere in it."""
    change: Callable[[Any], Any] = lambda value: _replacement(value, random)  # noqa: E731
    return _at_random_place(document, random, change)


def _at_random_place(value: Any, random: Random, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        kind = random.random()
        if kind < 0.08:
            return {name: each for name, each in value.items() if name != key}
        if kind < 0.12:
            return {**value, random.choice(TEXTS): value[key]}
        return {**value, key: _at_random_place(value[key], random, change)}
    if isinstance(value, list) and value and random.random() < 0.85:
        at = random.randrange(len(value))
        kind = random.random()
        if kind < 0.1:
            return value[:at] + value[at + 1 :]
        if kind < 0.2:
            return [*value[:at], value[at], *value[at:]]
        if kind < 0.25:
            return random.sample(value, len(value))
        return [*value[:at], _at_random_place(value[at], random, change), *value[at + 1 :]]
    return change(value)


def _replacement(value: Any, random: Random) -> Any:
    kind = random.random()
    if kind < 0.4 and isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) or random.random() < 0.4:
            return random.choice(NUMBERS)
        return value + random.choice((-1, 1, 8192, -8192, 1 << 20))
    if kind < 0.5 and isinstance(value, str):
        at = random.randrange(len(value) + 1)
        return value[:at] + random.choice(TEXTS) + value[at + random.randrange(3) :]
    if kind < 0.7:
        return random.choice(NUMBERS)
    if kind < 0.9:
        return random.choice(TEXTS)
    nested: Any = value
    for _ in range(random.choice((1, 2, 400))):
        nested = [nested] if random.random() < 0.5 else {"x": nested}
    return random.choice((None, True, False, [], {}, [value], nested))


def splice(text: bytes, words: Sequence[bytes], random: Random) -> bytes:
    """`text` with a word put in, or a piece repeated, moved or left out."""
    at = random.randrange(len(text) + 1)
    size = random.randrange(1, 20)
    kind = random.random()
    if kind < 0.5:
        return text[:at] + random.choice(words) + text[at + random.choice((0, 0, size)) :]
    if kind < 0.7:
        return text[:at] + text[at : at + size] * random.choice((2, 3, 50)) + text[at + size :]
    if kind < 0.85:
        return text[:at] + text[at + size :]
    to = random.randrange(len(text) + 1)
    return text[:to] + text[at : at + size] + text[to:]

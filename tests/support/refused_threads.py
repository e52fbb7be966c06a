"""A system that has no room for one more thread."""

from __future__ import annotations

import threading

import pytest


def refuse_next_thread(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The next thread of that `name` can't be started; the one after it can."""
    start = threading.Thread.start
    refused: list[threading.Thread] = []

    def refuse_once(thread: threading.Thread) -> None:
        if thread.name == name and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)

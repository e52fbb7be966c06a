"""What is read of /proc is what it says there."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.bench import machine
from tests.bench.machine import TICKS_PER_SECOND, parse_stat


def test_a_name_with_spaces_and_brackets_does_not_shift_the_times() -> None:
    line = "42 (post) gres (x) Z 7 42 42 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0 99 0 0"
    times = parse_stat(line)
    assert (times.pid, times.name, times.state, times.parent_pid) == (42, "post) gres (x", "Z", 7)
    assert times.own_seconds == 200 / TICKS_PER_SECOND
    assert times.reaped_seconds == 50 / TICKS_PER_SECOND
    assert times.seconds == 250 / TICKS_PER_SECOND


def test_our_own_cpu_time_is_counted() -> None:
    before = machine.times_of(os.getpid()).own_seconds
    spent = time.process_time()
    while time.process_time() - spent < 0.1:
        pass
    assert machine.times_of(os.getpid()).own_seconds - before >= 0.05


def test_what_uses_less_than_a_tick_is_counted_too() -> None:
    before = machine.run_seconds(os.getpid())
    spent = time.thread_time()
    while time.thread_time() - spent < 0.003:
        pass
    assert 0.002 < machine.run_seconds(os.getpid()) - before < 5
    assert machine.run_seconds(2**22 + 1) == 0  # beyond the largest process id there can be


def test_children_threads_and_files_are_found() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert machine.with_children(os.getpid())[0] == os.getpid()
        assert child.pid in machine.with_children(os.getpid())
        assert machine.count_of(child.pid, "task") == 1
        assert machine.count_of(child.pid, "fd") >= 3
    finally:
        child.kill()
        child.wait()


def test_memory_is_that_of_the_process_and_its_peak_can_be_forgotten() -> None:
    ballast = bytearray(50_000_000)
    assert len(ballast) and machine.memory_of(os.getpid()).rss_mb > 50
    machine.forget_peak(os.getpid())
    memory = machine.memory_of(os.getpid())
    assert 0 < memory.pss_mb <= memory.rss_mb + 1
    assert memory.peak_rss_mb >= memory.rss_mb - 1


def test_touching_memory_leaves_none_behind() -> None:
    before = machine.memory_of(os.getpid()).rss_mb
    machine.make_ready(50_000_000)
    assert machine.memory_of(os.getpid()).rss_mb < before + 25


def test_a_busy_machine_is_waited_for_and_not_forever() -> None:
    shares = iter([0.9, 0.5, 0.1, 0.8])
    assert machine.settle(0.1, 60, lambda: next(shares)) == 0.1
    assert list(shares) == [0.8]
    assert machine.settle(0.1, 0, lambda: 0.9) == 0.9


def test_time_that_counts_backwards_makes_no_machine_more_than_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = iter([(100, 200), (110, 209)])
    monkeypatch.setattr(machine, "_machine_ticks", lambda: next(ticks))
    assert machine.MachineClock().read() == (10 / TICKS_PER_SECOND, 1)


def test_the_machine_is_described(tmp_path: Path) -> None:
    facts = machine.facts(tmp_path)
    assert facts["memory"].endswith(" GB")
    assert facts["file system"] != "unknown"
    assert 0 <= machine.busy_share(0.05) <= 1

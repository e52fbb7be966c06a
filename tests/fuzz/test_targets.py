"""Every target: shortly, with what was found before, and with mistakes that it must find."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.__main__ import INPUT_SECONDS, ROOT, fuzz
from tests.fuzz.target import Target, load, names
from tests.fuzz.targets import seals

each_target = pytest.mark.parametrize("name", names())
needs_atheris = pytest.mark.skipif(
    find_spec("atheris") is None, reason="atheris has wheels for x86-64 only"
)


def run(target: Target, data: bytes) -> bool:
    """As the target does, within its memory."""
    tracemalloc.start()
    try:
        accepted = target.run(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes <= target.max_memory_bytes, peak_bytes
    return accepted


@each_target
def test_good_inputs_are_accepted(name: str) -> None:
    target = load(name)
    seeds = list(target.seeds())
    assert len(seeds) == len(set(seeds)) > 1
    assert [seed[:200] for seed in seeds if len(seed) > target.max_bytes] == []
    for seed in seeds:
        target.run(seed)  # what it loads once does not count
        assert run(target, seed), seed[:200]


@each_target
def test_what_broke_something_once_does_no_more(name: str) -> None:
    target = load(name)
    for path in target.stored:
        run(target, path.read_bytes())


def test_bombs_do_not_unfold() -> None:
    target = load("seals")
    for bomb in seals.bombs():
        assert not run(target, bomb)


@needs_atheris
@each_target
def test_a_short_run_finds_nothing(name: str, tmp_path: Path) -> None:
    runs = load(name).short_runs
    outcome = fuzz(name, tmp_path / "inputs", tmp_path / "findings", f"-runs={runs}", "-seed=1")
    kept = {path.name: path.read_bytes()[:2000] for path in outcome.findings}
    assert outcome.status == 0, f"{kept}\n{outcome.output[-4000:]}"
    assert outcome.runs >= runs


MISTAKES = {
    "wrong exception": "postmaster._number = lambda text, largest: int(text) if text else None",
    "memory": "postmaster.running_postmaster = lambda directory: bytearray(1 << 30)",
    "hang": "postmaster.stale_locks = lambda directory: any(iter(int, 1))",
}


@needs_atheris
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_and_its_input_kept(mistake: str, tmp_path: Path) -> None:
    planted = f"from logship.postgres import postmaster; {MISTAKES[mistake]}"
    script = f"{planted}; from tests.fuzz.process import main; main()"
    # Where nothing hangs a process that is not let run for a second must not look as if it did.
    limit_seconds = 1 if mistake == "hang" else INPUT_SECONDS
    options = ["-runs=20000", "-seed=1", f"-timeout={limit_seconds}"]
    done = subprocess.run(
        [sys.executable, "-c", script, "pid_files", *options, f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    (kept,) = tmp_path.iterdir()
    kind = "timeout" if mistake == "hang" else "crash"
    assert kept.name.startswith(kind)
    assert kept.stat().st_size <= load("pid_files").max_bytes

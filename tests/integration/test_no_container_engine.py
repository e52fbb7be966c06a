"""A run of the tests without a container engine: its last lines say what that left out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/containers/test_images.py"
PLUGINS = ("xdist", "pytest_timeout", "pytest_asyncio.plugin", "no:cacheprovider")

pytestmark = pytest.mark.integration


def test_the_last_lines_say_which_tests_did_not_run_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"unix://{tmp_path}/no.sock"
    monkeypatch.setenv("DOCKER_HOST", nowhere)
    # The other plugins take longer to load than all of this to run.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    words = [word for name in PLUGINS for word in ("-p", name)]
    # As in `make test` the tests are in another process than the summary.
    command = [sys.executable, "-m", "pytest", *words, "-q", "-n", "1", TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(
        r"=+ (\d+) tests with containers did not run =+\nWhy: (.*)\n((?:  .*\n)+)", done.stdout
    )
    assert found is not None, done.stdout
    count, why, named = found.groups()
    assert why.startswith(f"no container engine answers at {nowhere}: ")
    tests = named.split()
    assert len(tests) == int(count) and tests == sorted(tests)
    functions = re.findall(r"^def (test_\w+)", (ROOT / TESTS).read_text(), flags=re.MULTILINE)
    assert {each.partition("[")[0] for each in tests} == {f"{TESTS}::{name}" for name in functions}
    # Nothing but pytest's own count comes after it.
    assert done.stdout[found.end() :].strip().startswith(f"{count} skipped")
    assert len(done.stdout[found.end() :].strip().splitlines()) == 1

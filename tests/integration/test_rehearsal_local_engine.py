"""The machines of a rehearsal as directories of this host."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from logship.rehearsal.engine.local import LocalEngine
from logship.rehearsal.engine.local_code import copy_dependencies, copy_python
from tests.containers.engine_contract import EngineContract
from tests.support.installations import older_minor_dir, postgres_dir
from tests.support.processes import processes_below, server_run_as
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


class TestLocal(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[LocalEngine]:
        engine = LocalEngine()
        directory = engine.home_of("none").parent
        yield engine
        engine.close()
        assert not directory.exists()

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls) -> tuple[str, str]:
        return str(older_minor_dir(16)), str(postgres_dir(16))

    def test_finds_installations_by_directory_version_and_major(self, engine: LocalEngine) -> None:
        newest = postgres_dir(17)
        machine = engine.machine("several", f"{newest}, 16, {older_minor_dir(17).name}")
        found = machine.facts.installations
        assert len(found) == 3
        assert found[newest.name] == newest / "bin"
        assert machine.facts.libc
        with pytest.raises(LogshipError, match="no PostgreSQL 13") as unknown:
            machine.change(image="13")
        assert unknown.value.code is Code.NO_INSTALLATION
        assert machine.facts.installations == found
        machine.remove()

    def test_nobody_waits_longer_than_the_machine_is_there(self, engine: LocalEngine) -> None:
        machine = engine.machine("attended", str(postgres_dir(16)))
        python = machine.tool_command("sql")[:-2]
        parent = [*python, "-c", "import os; print(os.getppid())"]
        waits = machine.run(parent).stdout.strip()
        assert Path(f"/proc/{waits}").exists()
        machine.change(image=str(older_minor_dir(16)))
        assert not Path(f"/proc/{waits}").exists()
        waits = machine.run(parent).stdout.strip()
        machine.remove()
        assert not Path(f"/proc/{waits}").exists()

    def test_a_home_is_closed_to_others_and_has_its_own_tablespaces(
        self, engine: LocalEngine
    ) -> None:
        machine = engine.machine("tablespaces", str(postgres_dir(16)))
        machine.run(["sh", "-c", "mkdir space; ln -s $PWD/space link; ln -s /etc outside"])
        fork = machine.fork("elsewhere")
        for each in (machine, fork):
            assert each.run(["stat", "-c", "%a", each.home]).stdout == "700\n"
        assert fork.run(["readlink", "link", "outside"]).stdout == f"{fork.home}/space\n/etc\n"
        fork.remove()
        machine.remove()


REHEARSES = """
import sys, time
from logship.rehearsal.engine.local import LocalEngine
machine = LocalEngine().machine("primary", sys.argv[1])
machine.write(machine.home / "file", "")
machine.start(["sh", "-c", "setsid tail -f $PWD/file; true"], "reader")
print(machine.home, flush=True)
time.sleep(300)
"""


def test_what_a_killed_rehearsal_left_goes_and_nothing_of_one_that_lives(
    shared_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(shared_tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    engine = LocalEngine()
    living = engine.machine("primary", str(postgres_dir(16)))
    command = [sys.executable, "-c", REHEARSES, str(postgres_dir(16))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        home = Path(other.stdout.readline().strip())
        try:
            wait_until(lambda: processes_below(home), 30, "what it started")
            assert engine.remove_left_behind() == ()
        finally:
            other.kill()
    assert home.is_dir() and processes_below(home)
    (said,) = engine.remove_left_behind()
    assert said == f"removed what was left of a rehearsal that was killed: {home.parent}"
    assert not home.parent.exists() and not processes_below(home)
    assert engine.remove_left_behind() == ()
    assert living.run(["true"]).returncode == 0
    engine.close()
    assert list(shared_tmp_path.iterdir()) == []


@pytest.mark.on_disk  # hundreds of MB
def test_python_and_what_logship_needs_can_be_copied(shared_tmp_path: Path) -> None:
    run_as = server_run_as()
    python = copy_python(shared_tmp_path, run_as)
    dependencies = copy_dependencies(shared_tmp_path, run_as)
    done = subprocess.run(
        [python.program, "-c", "import json, boto3, psycopg, zmq; print(json, boto3, zmq)"],
        env={**python.environment, "PYTHONPATH": str(dependencies)},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        **run_as.subprocess_arguments(),
    )
    assert done.stdout.count(str(shared_tmp_path)) == 3

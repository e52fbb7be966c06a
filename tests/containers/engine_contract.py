"""What every engine of rehearsals must do; the tests of one subclass `EngineContract`.

The subclass gives the fixtures `engine`, of its class, and `images`: two that differ in their
PostgreSQL.  It is not collected by itself.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import logship
from logship.errors import LogshipError, UsageError
from logship.rehearsal.engine import CURRENT_LOGSHIP, Engine, Machine, Process
from tests.support.waiting import wait_until

WAIT_SECONDS = 30

STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.1; done"
POLITE = "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done"
FAMILY = "setsid sleep 300 & echo $! >family; sleep 300"
LISTENER = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    with connection:
        print(connection.recv(100).decode(), flush=True)
"""
CALLER = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as connection:
    connection.sendall(b"from afar")
"""


def wait_for_log(process: Process, text: str) -> None:
    wait_until(lambda: text in process.log(), WAIT_SECONDS, what=f"{text!r} in a log")


def is_alive(machine: Machine, pid: str) -> bool:
    """Not so when it only waits for its parent to take note of its end."""
    status = ["grep", "-qs", "^State:\t[^ZX]", f"/proc/{pid}/status"]
    return machine.run(status).returncode == 0


def say_version(machine: Machine, program: str = "applier") -> str:
    return machine.run([*machine.logship_command(program), "--version"]).stdout.strip()


def copy_logship(directory: Path, version: str) -> Path:
    """A Logship of another version, with which everything else is the same."""
    source = Path(logship.__file__).parents[1]
    for package in ("logship", "shipper", "applier"):
        shutil.copytree(
            source / package, directory / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    words = directory / "logship" / "__init__.py"
    text = words.read_text(encoding="utf-8")
    words.write_text(text.replace(logship.__version__, version), encoding="utf-8")
    return directory


def make_wheel(directory: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for file in sorted(directory.rglob("*.py")):
            wheel.write(file, file.relative_to(directory))
    return path


class EngineContract:
    @pytest.fixture(scope="class")
    @classmethod
    def machine(cls, engine: Engine, images: tuple[str, str]) -> Iterator[Machine]:
        machine = engine.machine("contract", images[0])
        yield machine
        machine.remove()

    def test_runs_programs_to_their_end(self, machine: Machine) -> None:
        assert machine.run(["id", "-u"]).stdout.strip() != "0"
        assert machine.run(["pwd"]).stdout.strip() == str(machine.home)
        text = "ä line\n" * 200_000
        assert machine.run(["cat"], stdin=text) == (0, text, "")
        assert machine.run(["cat"]) == (0, "", "")
        said = machine.run(
            ["sh", "-c", "echo $WORD; echo no >&2; exit 5"], environment={"WORD": "x"}
        )
        assert said == (5, "x\n", "no\n")
        assert machine.run(["no-such-program"]).returncode == 127

    def test_runs_no_program_for_longer_than_it_may(self, machine: Machine) -> None:
        slow = machine.run(["sh", "-c", "echo begun; sleep 300"], timeout_seconds=3)
        assert (slow.returncode, slow.stdout) == (124, "begun\n")

    def test_does_not_wait_for_what_a_program_leaves_running(self, machine: Machine) -> None:
        assert machine.run(["sh", "-c", "sleep 300 & echo $!"], timeout_seconds=20).returncode == 0

    def test_runs_python_programs_off_one_that_waits(self, machine: Machine) -> None:
        python = machine.tool_command("sql")[:-2]
        code = "import os, sys; print(os.getppid(), *sys.argv, os.environ['W'], input()); "
        given: dict[str, Any] = {"stdin": "ä\n", "environment": {"W": "x"}}
        said = machine.run([*python, "-c", f"{code}sys.exit('over')", "1"], **given)
        waits = said.stdout.split()[0]
        assert said == (1, f"{waits} -c 1 x ä\n", "over\n")
        again = machine.run([*python, "-c", code], **given)
        assert again == (0, f"{waits} -c x ä\n", "")
        slow = "import time; print('begun', flush=True); time.sleep(300)"
        ended = machine.run([*python, "-c", slow], timeout_seconds=3)
        assert (ended.returncode, ended.stdout) == (124, "begun\n")
        failed = machine.run([*python, "-c", "1 / 0"])
        assert failed.returncode == 1 and "ZeroDivisionError" in failed.stderr

        assert is_alive(machine, waits)
        machine.run(["sh", "-c", f"kill -KILL {waits}"])  # not all images have the program
        wait_until(lambda: not is_alive(machine, waits), WAIT_SECONDS, what="its end")
        another = machine.run([*python, "-c", code], **given)
        assert another.returncode == 0 and another.stdout.split()[0] != waits
        with pytest.raises(LogshipError, match="in the midst of python"):
            machine.run([*python, "-c", "import os; os.kill(os.getppid(), 9)"])

    def test_is_asked_by_several_at_once(self, machine: Machine) -> None:
        """The first one waits for the second."""
        python = machine.tool_command("sql")[:-2]
        wait = "import os, time\nwhile not os.path.exists('asked'): time.sleep(0.02)"
        with ThreadPoolExecutor() as pool:
            first = pool.submit(machine.run, [*python, "-c", wait])
            assert machine.run([*python, "-c", "open('asked', 'w').close()"]).returncode == 0
            assert first.result() == (0, "", "")

    def test_starts_and_stops_programs(self, machine: Machine) -> None:
        polite = machine.start(["sh", "-c", POLITE], "polite")
        stubborn = machine.start(["sh", "-c", STUBBORN], "stubborn")
        wait_for_log(polite, "up")
        wait_for_log(stubborn, "up")
        assert polite.running
        assert machine.read(machine.home / "logs" / "polite.log") == b"up\n"
        assert polite.stop() == 7
        assert not polite.running
        assert polite.stop() == 7
        assert stubborn.stop(timeout_seconds=0.2) == 137
        again = machine.start(["sh", "-c", "echo once more"], "polite")
        wait_for_log(again, "once more")
        wait_until(lambda: not again.running, WAIT_SECONDS, what="the end of a program")
        assert again.stop() == 0
        assert again.log() == "once more\n", "what the one before it said is no word of this one"
        assert machine.read(machine.home / "logs" / "polite.log") == b"up\nonce more\n"

    def test_kills_all_that_a_program_started(self, machine: Machine) -> None:
        family = machine.start(["sh", "-c", FAMILY], "family")
        pid = wait_until(
            lambda: machine.run(["cat", "family"]).stdout.strip(),
            WAIT_SECONDS,
            what="a child's number",
        )
        assert is_alive(machine, pid)
        family.kill()
        assert not family.running
        assert not is_alive(machine, pid)

    def test_keeps_files(self, machine: Machine, tmp_path: Path) -> None:
        path = machine.home / "a" / "b" / "file"
        machine.write(path, "text\n")
        machine.write(path, b"\0bytes", mode=0o640)
        assert machine.read(path) == b"\0bytes"
        assert machine.run(["stat", "-c", "%a", path]).stdout == "640\n"
        with pytest.raises(FileNotFoundError):
            machine.read(machine.home / "nowhere")
        (tmp_path / "tree" / "empty").mkdir(parents=True)
        (tmp_path / "tree" / "program").write_text("#!/bin/sh\necho runs as $(id -u)\n")
        (tmp_path / "tree" / "program").chmod(0o700)
        (tmp_path / "tree" / "link").symlink_to("program")
        machine.put_tree(tmp_path / "tree", machine.home / "put" / "here")
        account = machine.run(["id", "-u"]).stdout
        assert machine.run([machine.home / "put/here/link"]).stdout == f"runs as {account}"
        assert machine.run(["rmdir", "put/here/empty"]).returncode == 0

    def test_has_postgres_and_logship(self, machine: Machine) -> None:
        ((version, bin_dir),) = machine.facts.installations.items()
        said = machine.run([bin_dir / "postgres", "--version"]).stdout
        assert f"(PostgreSQL) {version}" in said
        assert say_version(machine) == f"applier {logship.__version__}"
        assert say_version(machine, "shipper") == f"shipper {logship.__version__}"
        refused = machine.run(machine.tool_command("sql"), stdin="{}")
        assert refused.returncode != 0
        assert "No module" not in refused.stderr
        ports = {machine.free_port() for _ in range(5)}
        assert len(ports) == 5

    def test_changes_and_keeps_its_home(
        self, engine: Engine, images: tuple[str, str], tmp_path: Path
    ) -> None:
        machine = engine.machine("changes", images[0])
        machine.write(machine.home / "kept", "as it was")
        process = machine.start(["sleep", "300"], "sleeper")
        before = machine.facts
        machine.change(image=images[1])
        assert (machine.image, machine.logship) == (images[1], CURRENT_LOGSHIP)
        assert machine.facts.installations.keys() != before.installations.keys()
        assert not process.running
        assert machine.read(machine.home / "kept") == b"as it was"
        machine.write(machine.home / "kept", "changed")  # whoever owned it before

        wheel = make_wheel(copy_logship(tmp_path / "older", "0.0.9"), tmp_path / "older.whl")
        fork = machine.fork("older", logship=str(wheel))
        assert (say_version(fork), say_version(machine)) == (
            "applier 0.0.9",
            f"applier {logship.__version__}",
        )
        fork.remove()
        machine.remove()
        machine.remove()

    def test_forks_are_machines_of_their_own(self, engine: Engine, machine: Machine) -> None:
        machine.write(machine.home / "shared", "both")
        fork = machine.fork("fork")
        assert fork.read(fork.home / "shared") == b"both"
        fork.write(fork.home / "shared", "fork's")
        assert machine.read(machine.home / "shared") == b"both"

        port = machine.free_port()
        server = machine.start(["python3", "-c", LISTENER, str(port)], "listener")
        wait_for_log(server, "listening")
        called = fork.run(["python3", "-c", CALLER, machine.address, str(port)])
        assert called.returncode == 0, called.stderr
        wait_for_log(server, "from afar")
        fork.remove()
        assert machine.run(["true"]).returncode == 0

    def test_says_what_it_has_not(
        self, engine: Engine, images: tuple[str, str], tmp_path: Path
    ) -> None:
        with pytest.raises(LogshipError) as no_image:
            engine.machine("none", "logship-test.invalid/none:1")
        assert "logship-test.invalid/none:1" in no_image.value.what
        with pytest.raises(UsageError) as no_logship:
            engine.machine("none", images[0], str(tmp_path))
        assert str(tmp_path) in no_logship.value.what

"""Machines that are containers, by testcontainers (Docker, or Podman's socket).

A machine is a container that does nothing by itself: programs are executed in it.  Its home is a
volume, which stays when the container is replaced, and the volumes of `code_volumes` give it
Logship.  All are in one network, where a machine's name is its address.
"""

from __future__ import annotations

import itertools
import json
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from logship.errors import Code, LogshipError
from logship.redaction import redact
from logship.rehearsal.engine import (
    CURRENT_LOGSHIP,
    RUN_SECONDS,
    Done,
    ImageFacts,
    attendant,
    supervision,
)
from logship.rehearsal.engine.attendants import Answer, Attendants, Imports, program_of
from logship.rehearsal.engine.code_volumes import (
    MOUNT,
    CodeVolumes,
    Tree,
    attendant_command,
    put_code,
    python_command,
    supervision_command,
)
from logship.rehearsal.engine.connection import connect, engine_errors, engine_host
from logship.rehearsal.engine.exchange import (
    Call,
    Conversation,
    begin,
    ended,
    execute,
    is_running,
    run_once,
)
from logship.rehearsal.engine.images import Images, Probed
from logship.rehearsal.engine.left_behind import (
    DIRECTORY,
    Note,
    remove_directory,
    remove_left_behind,
)

HOME = PurePosixPath("/var/lib/rehearsal")
ACCOUNT = "postgres"
SESSION_LABEL = "logship.rehearsal"

_SHARED_MEMORY_BYTES = 256 << 20
# Below the ports that the kernel gives to clients.
_FIRST_PORT = 20000


class ContainerEngine:
    """See `logship.rehearsal.engine.Engine`."""

    name = "docker"
    can_change_system = True

    def __init__(self) -> None:
        """Raises LogshipError(NO_CONTAINER_ENGINE) if there is none."""
        self.client = connect()
        self.session = uuid.uuid4().hex[:12]
        self._kind = f"{SESSION_LABEL} at {redact(engine_host())}"
        self._note = Note(self._kind, self.session)
        self.labels = {SESSION_LABEL: self.session}
        self.images = Images(self.client, self.labels)
        self.code = CodeVolumes(self.client, self.labels)
        self._network: Any = None
        self.imports: Imports = {}
        self._machines: list[ContainerMachine] = []

    def machine(self, name: str, image: str, logship: str = CURRENT_LOGSHIP) -> ContainerMachine:
        """See `Engine.machine`."""
        machine = ContainerMachine(self, name, image, logship)
        self._machines.append(machine)
        machine.begin()
        return machine

    def facts(self, image: str) -> ImageFacts:
        """See `Engine.facts`."""
        return self.images.probe(image).facts

    def fork(
        self, source: ContainerMachine, name: str, image: str, logship: str
    ) -> ContainerMachine:
        """A machine with a copy of the home of `source`."""
        machine = ContainerMachine(self, name, image, logship)
        self._machines.append(machine)
        with engine_errors(f"the home of machine {source.name} can't be copied"):
            copied = run_once(
                self.client,
                source.reference,
                ["cp", "-a", "/from/.", "/to/"],
                labels=self.labels,
                volumes={
                    source.volume: {"bind": "/from", "mode": "ro"},
                    machine.volume: {"bind": "/to", "mode": "rw"},
                },
            )
        checked(copied, f"the home of machine {source.name} can't be copied")
        machine.begin()
        return machine

    @property
    def network(self) -> Any:
        """Made when the first machine wants it."""
        if self._network is None:
            from testcontainers.core.network import Network

            with engine_errors("a network can't be made"):
                self._network = Network(docker_network_kw={"labels": self.labels}).create()
        return self._network

    def remove_left_behind(self) -> tuple[str, ...]:
        # A copy of an instance is made in a directory of this host.
        return remove_left_behind({DIRECTORY: remove_directory, self._kind: self._remove_session})

    def close(self) -> None:
        """Removes all that has this rehearsal's label, whatever is known of it here."""
        for machine in self._machines:
            with suppress(LogshipError):  # what is left is found by its label
                machine.remove()
        self._remove_session(self.session)
        if self._network is not None:
            self._network._docker.client.close()
            self._network = None
        self._note.withdraw()
        self.client.close()

    def _remove_session(self, session: str) -> str:
        """All that has the label of a rehearsal; see `left_behind.Remove`."""
        label = f"{SESSION_LABEL}={session}"
        wanted = {"label": label}
        with engine_errors("not all of a rehearsal could be removed"):
            containers = self.client.containers.list(all=True, filters=wanted, ignore_removed=True)
            for container in containers:
                _remove(container, force=True, v=True)
            volumes = self.client.volumes.list(filters=wanted)
            for volume in volumes:
                _remove(volume, force=True)
            networks = self.client.networks.list(filters=wanted)
            for network in networks:
                _remove(network)
        there_was_any = containers or volumes or networks
        return f"containers, volumes and networks with the label {label}" if there_was_any else ""


class ContainerMachine:
    """See `logship.rehearsal.engine.Machine`."""

    def __init__(self, engine: ContainerEngine, name: str, image: str, logship: str) -> None:
        self.name = name
        self.image = image
        self.logship = logship
        self.home = HOME
        self.address = name
        self.volume = f"logship-{engine.session}-{name}-{uuid.uuid4().hex[:6]}"
        self._engine = engine
        self._client = engine.client
        self._ports = itertools.count(_FIRST_PORT)
        self._marks = itertools.count(1)
        self._container: Any = None
        self._owner = {"uid": 0, "gid": 0}
        self._attendants = Attendants(name, self._attended, engine.imports)
        self._probed: Probed = engine.images.probe(image)
        self.facts: ImageFacts = self._probed.facts
        self._code = engine.code.provide(logship, self._probed)
        with engine_errors(f"the volume of machine {name} can't be made"):
            self._client.volumes.create(self.volume, labels=engine.labels)

    @property
    def reference(self) -> str:
        """The image that really runs: with Python."""
        return self._probed.reference

    @property
    def is_there(self) -> bool:
        return self._container is not None

    def begin(self) -> None:
        """Start the container, with an account that owns the home."""
        from testcontainers.core.container import DockerContainer

        with engine_errors(f"machine {self.name} can't be started with {self.image}"):
            container = (
                DockerContainer(self.reference, network=self._engine.network)
                .with_network_aliases(self.name)
                .with_command(["infinity"])
                .with_volume_mapping(self.volume, str(self.home), "rw")
                .with_kwargs(
                    entrypoint="sleep",
                    hostname=self.name,
                    init=True,
                    labels=self._engine.labels,
                    shm_size=_SHARED_MEMORY_BYTES,
                    user="root",
                )
            )
            for tree in self._code:
                container.with_volume_mapping(tree.volume, str(MOUNT / tree.name), "ro")
            self._container = container.start()
        with engine_errors(f"machine {self.name} does not answer"):
            prepare = supervision_command(self._probed, "prepare", str(self.home), ACCOUNT)
            answer = execute(self._client, Call(self._container_id(), prepare, user="root"))
        self._owner = json.loads(checked(answer, f"{self.name} can't be prepared").stdout)

    def run(
        self,
        command: Sequence[str | PurePosixPath],
        *,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = RUN_SECONDS,
    ) -> Done:
        given, words = stdin.encode(), list(map(str, command))
        python, program = program_of(words, self._pythons())
        if python:
            arguments = [attendant.PYTHON, str(timeout_seconds), "--", *program]
        else:
            arguments = ["run", str(timeout_seconds), str(len(given)), "--", *words]
        answer = self._attendants.ask(
            arguments,
            python=python,
            stdin=given,
            environment=environment,
            timeout_seconds=timeout_seconds,
        )
        return Done(
            answer.returncode,
            answer.stdout.decode(errors="replace"),
            answer.stderr.decode(errors="replace"),
        )

    def start(
        self,
        command: Sequence[str | PurePosixPath],
        name: str,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> ContainerProcess:
        mark = f"{name}-{next(self._marks)}"
        pid_file = f"/tmp/rehearsal-{mark}.pid"
        log_file = self.home / "logs" / f"{name}.log"
        started = supervision_command(
            self._probed, "start", pid_file, str(log_file), "--", *map(str, command)
        )
        call = self._call(started, {**(environment or {}), supervision.MARK: mark})
        from_bytes = len(self._log(log_file))
        with engine_errors(f"{name} can't be started on machine {self.name}"):
            execution = begin(self._client, call)
        return ContainerProcess(
            self, execution, mark, pid_file, lambda: self._log(log_file)[from_bytes:]
        )

    def logship_command(self, program: str) -> list[str]:
        code = (
            f"import sys; sys.argv[0] = {program!r}; "
            f"from {program}.commands import main; sys.exit(main())"
        )
        return [*python_command(self.logship, self._probed), "-c", code]

    def tool_command(self, module: str) -> list[str]:
        name = f"logship.rehearsal.inside.{module}"
        return [*python_command(CURRENT_LOGSHIP, self._probed), "-m", name]

    def free_port(self) -> int:
        return next(self._ports)

    def write(self, path: PurePosixPath, content: str | bytes, mode: int = 0o600) -> None:
        data = content.encode() if isinstance(content, str) else content
        self.supervise("write", str(path), f"{mode:o}", str(len(data)), stdin=data)

    def read(self, path: PurePosixPath) -> bytes:
        answer = self._attendants.ask(["read", str(path)])
        if answer.returncode == supervision.NO_SUCH_FILE:
            raise FileNotFoundError(str(path))
        return checked(answer, f"{path} can't be read").stdout

    def put_tree(self, source: Path, path: PurePosixPath) -> None:
        def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.uid, entry.gid = self._owner["uid"], self._owner["gid"]
            entry.uname = entry.gname = ""
            return entry

        self.supervise("directory", str(path))
        with tempfile.TemporaryFile(prefix="logship-tree-") as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                archive.add(source, ".", filter=owned)
            file.seek(0)
            with engine_errors(f"{source} can't be copied to machine {self.name}"):
                self._client.api.put_archive(self._container_id(), str(path), file)

    def change(self, *, image: str | None = None, logship: str | None = None) -> None:
        probed = self._engine.images.probe(image or self.image)
        code = self._engine.code.provide(logship or self.logship, probed)
        if image is None:
            # A volume can't be mounted into a container that runs.
            there = {tree.name for tree in self._code}
            added = [tree for tree in code if tree.name not in there]
            for tree in added:
                self._put_code(tree)
            self._code = (*self._code, *added)
            self.logship = logship or self.logship
            return
        self._code = code
        self._probed = probed
        self.facts = probed.facts
        self.image = image
        self.logship = logship or self.logship
        self._end()
        self.begin()

    def _put_code(self, tree: Tree) -> None:
        container = self._client.containers.get(self._container_id())
        with engine_errors(f"Logship can't be put into machine {self.name}"):
            put_code(container, tree)

    def fork(
        self, name: str, *, image: str | None = None, logship: str | None = None
    ) -> ContainerMachine:
        return self._engine.fork(self, name, image or self.image, logship or self.logship)

    def remove(self) -> None:
        import docker

        self._end()
        with (
            engine_errors(f"machine {self.name} can't be removed"),
            suppress(docker.errors.NotFound),
        ):
            _remove(self._client.volumes.get(self.volume), force=True)

    def _end(self) -> None:
        self._attendants.end()
        if self._container is not None:
            with engine_errors(f"the container of machine {self.name} can't be removed"):
                self._container.stop(force=True, delete_volume=True)
            self._container = None

    def supervise(self, *arguments: str, stdin: bytes = b"") -> Answer:
        """Raises LogshipError unless that ended well."""
        answer = self._attendants.ask(arguments, stdin=stdin)
        return checked(answer, f"{' '.join(arguments[:2])} failed on machine {self.name}")

    def _log(self, log_file: PurePosixPath) -> bytes:
        try:
            return self.read(log_file)
        except FileNotFoundError:  # nothing that writes it has begun
            return b""

    def _attended(self, python: tuple[str, ...]) -> Conversation:
        call = self._call(attendant_command(self._probed, python))
        with engine_errors(f"machine {self.name} does not answer"):
            return Conversation(self._client, call)

    def _call(
        self, command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})
    ) -> Call:
        """By the account, in its home."""
        return Call(
            self._container_id(),
            command,
            user=ACCOUNT,
            environment={
                "HOME": str(self.home),
                "USER": ACCOUNT,
                "LOGNAME": ACCOUNT,
                **environment,
            },
            directory=str(self.home),
        )

    def _container_id(self) -> str:
        """Raises LogshipError: there is none, or none while another thread changes the image."""
        container = self._container
        if container is None:
            raise LogshipError(Code.CONTAINER_FAILED, f"machine {self.name} has no container now")
        return str(container.get_container_id())

    def _pythons(self) -> tuple[tuple[str, ...], ...]:
        """Whose programs need no interpreter of their own."""
        return tuple(python_command(each, self._probed) for each in {CURRENT_LOGSHIP, self.logship})


class ContainerProcess:
    """See `logship.rehearsal.engine.Process`."""

    def __init__(
        self,
        machine: ContainerMachine,
        execution: str,
        mark: str,
        pid_file: str,
        read_log: Callable[[], bytes],
    ) -> None:
        self._machine = machine
        self._client = machine._client
        self._execution = execution
        self._mark = mark
        self._pid_file = pid_file
        self._read_log = read_log

    @property
    def running(self) -> bool:
        with engine_errors(f"machine {self._machine.name} does not answer"):
            return is_running(self._client, self._execution)

    def stop(self, timeout_seconds: float = 30.0) -> int:
        if self.running:
            self._machine.supervise("stop", self._pid_file, str(timeout_seconds))
        return self._status()

    def kill(self) -> None:
        if self._machine.is_there:
            self._machine.supervise("kill", self._mark)
            self._status()

    def log(self) -> str:
        return self._read_log().decode(errors="replace")

    def _status(self) -> int:
        with engine_errors(f"machine {self._machine.name} does not answer"):
            return ended(self._client, self._execution)


def checked(answer: Answer, what: str) -> Answer:
    """Raises LogshipError(CONTAINER_FAILED) unless it ended well."""
    if answer.returncode != 0:
        said = answer.stderr.decode(errors="replace").strip()[-400:]
        raise LogshipError(Code.CONTAINER_FAILED, f"{what}: {said}")
    return answer


def _remove(thing: Any, **how: bool) -> None:
    import docker

    with suppress(docker.errors.NotFound):
        thing.remove(**how)

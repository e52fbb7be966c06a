"""The recovery server of a rehearsal: an applier and its standby, on a machine."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from logship.errors import Code, ExitCode, LogshipError, RefusedError
from logship.lsn import Lsn
from logship.rehearsal.engine import Machine, Process
from logship.rehearsal.outcome import RuleSaid, Verdict
from logship.rehearsal.site.programs import ask_logship, ask_tool
from logship.rehearsal.site.recovery_settings import Places, Told, settings_text
from logship.rehearsal.site.server import Server

START_SECONDS = 60.0
STOP_SECONDS = 60.0
PROMOTE_SECONDS = 300.0
_POLL_SECONDS = 0.2
"""A look starts a program, which takes as long again."""
_LOG_LINES = 12

_fork_numbers = itertools.count(1)


@dataclass(frozen=True)
class Progress:
    """How far protection got.  Seconds since it was waited for; None: it did not get there.

    replayed_seconds: by when what is replayed was durable too.
    held: the version check holds the standby.  said: what the applier says of a standby that
    does not replay.  runs: whether its server runs.
    """

    durable_seconds: float | None
    replayed_seconds: float | None
    held: bool = False
    runs: bool = False
    said: str = ""


@dataclass(frozen=True)
class Incarnation:
    """name: SYSID-MAJOR.  directory: on the machine; `data` and `wal` are in it."""

    name: str
    directory: PurePosixPath

    @property
    def major(self) -> int:
        return int(self.name.partition("-")[2])


@dataclass
class Recovery:
    """Made by `create`.  parameters: the `settings` of the instance, in force from the applier's
    next start on."""

    machine: Machine
    instance: str
    public_key: str
    link_port: int
    standby_port: int
    parameters: dict[str, str] = field(default_factory=dict)
    _applier: Process | None = None

    @classmethod
    def create(
        cls,
        machine: Machine,
        instance: str,
        shipper_public_key: str,
        parameters: Mapping[str, str] | None = None,
    ) -> Recovery:
        """Keys and settings of an applier with one instance; it is not started.

        Raises RefusedError(SETTINGS): a parameter can't be had.
        """
        made = cls(machine, instance, shipper_public_key, machine.free_port(), machine.free_port())
        keygen: list[str | PurePosixPath] = [
            "keygen",
            made.places.keys,
            "--name",
            "applier",
            "--json",
        ]
        ask_logship(machine, "applier", keygen)
        # The sockets' directory must be there before the applier is.
        machine.write(made.places.home / "run" / "README", "Sockets of the applier.\n")
        if parameters:
            made.set_parameters(parameters)
        return made

    @property
    def places(self) -> Places:
        return Places(self.machine.home)

    @property
    def applier_public_key(self) -> str:
        """What the shipper must know of the applier."""
        return self.machine.read(self.places.keys / "applier.pub").decode().split()[-1]

    @property
    def link_address(self) -> str:
        """What the shipper connects to."""
        return f"tcp://{self.machine.address}:{self.link_port}"

    @property
    def server(self) -> Server:
        """The standby's, also once it is promoted."""
        sockets = self.places.standby_sockets(self.instance)
        return Server(self.machine, str(sockets), self.standby_port)

    # --- settings -------------------------------------------------------------------------

    def set_parameters(self, parameters: Mapping[str, str]) -> None:
        """Have the instance's `settings` be these and no others, from the next start on.

        Raises RefusedError(SETTINGS) with the applier's words: it does not take one of them, or
        would give the standby another value.  They are then as they were.
        """
        before, self.parameters = self.parameters, dict(parameters)
        try:
            self._write_settings()
            self._check_parameters()
        except RefusedError:
            self.parameters = before
            self._write_settings()
            raise

    def _check_parameters(self) -> None:
        """Raises RefusedError.  What else is checked, a start would show."""
        document = ask_logship(
            self.machine,
            "applier",
            ["check", "--config", self.places.settings, "--json"],
            fine=(ExitCode.DONE, ExitCode.REFUSED),
        )
        for check in document.get("checks") or ():
            if check.get("name") == f"parameters:{self.instance}" and check.get("level") != "ok":
                raise RefusedError(
                    Code.SETTINGS, str(check.get("what")), str(check.get("hint") or "")
                )

    def _write_settings(self) -> None:
        told = Told(
            instance=self.instance,
            public_key=self.public_key,
            address=self.machine.address,
            link_port=self.link_port,
            standby_port=self.standby_port,
            installations=[each.parent for each in self.machine.facts.installations.values()],
            parameters=self.parameters,
        )
        self.machine.write(self.places.settings, settings_text(told, self.places))

    # --- running --------------------------------------------------------------------------

    def start(self) -> None:
        """Start the applier, and wait until it answers.  Raises LogshipError with its log."""
        self._write_settings()
        command = [*self.machine.logship_command("applier"), "run"]
        process = self.machine.start(
            [*command, "--config", self.places.settings], "applier", environment=self._environment
        )
        self._applier = process
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.status()
                return
            except LogshipError as error:
                if process.running and time.monotonic() < deadline:
                    time.sleep(_POLL_SECONDS)
                    continue
                log = "\n".join(process.log().splitlines()[-_LOG_LINES:])
                raise LogshipError(
                    Code.APPLIER_UNREACHABLE,
                    f"the applier on {self.machine.name} does not start: {error.what}\n{log}",
                ) from error

    def stop_applier(self) -> None:
        """Stop the applier; the standby goes on."""
        if self._applier is not None:
            self._applier.stop(STOP_SECONDS)
            self._applier = None

    def stop(self) -> None:
        """Stop the applier, then its standbys, all in order.  Raises LogshipError."""
        self.stop_applier()
        self._standbys(stop=True)

    def restart_applier(self) -> None:
        """What changed settings need to be in force; the standby is restarted if it must be."""
        self.stop_applier()
        self.start()

    def change_image(self, image: str) -> None:
        """Stop well, and go on in another image; it is not started."""
        self.stop()
        self.machine.change(image=image)
        self._forget_installations()

    def fork(self, *, image: str | None = None) -> Recovery:
        """A copy on a machine of its own, on which nothing runs.  Stop this one before, and
        remove the copy's machine afterwards.

        Its applier listens elsewhere, so that no shipper finds it.
        """
        name = f"{self.machine.name}-{next(_fork_numbers)}"
        machine = self.machine.fork(name, image=image)
        fork = Recovery(
            machine,
            self.instance,
            self.public_key,
            machine.free_port(),
            machine.free_port(),
            dict(self.parameters),
        )
        if image is not None:
            fork._forget_installations()
        fork._write_settings()
        return fork

    def stopped_copy(self, *, image: str | None = None) -> Recovery:
        """A `fork` of this one, which was stopped well for it and runs again, with or without its
        standby following.

        Raises LogshipError: it does not stop or start.
        """
        self.stop()
        try:
            return self.fork(image=image)
        finally:
            self.start()

    def remove(self) -> None:
        """End all that runs and remove the machine."""
        with contextlib.suppress(LogshipError):
            self.stop()
        self.machine.remove()

    def _forget_installations(self) -> None:
        # The answers are known by path, size and time of the programs; packages that were
        # built reproducibly have the same in another system.
        self.machine.run(["rm", "-rf", self.places.directory / "installations"])

    def incarnations(self) -> list[Incarnation]:
        """What there is of the instance on disk, by name."""
        return self._standbys(stop=False)

    def incarnation(self) -> Incarnation:
        """The newest of them, as a system identifier begins with the time when initdb made it.
        Raises LogshipError(REHEARSAL_FAILED): there is none."""
        there = self.incarnations()
        if not there:
            raise LogshipError(
                Code.REHEARSAL_FAILED,
                f"there is nothing of {self.instance} on {self.machine.name}",
                "a standby is there once it was seeded",
            )
        return max(there, key=lambda each: int(each.name.partition("-")[0]))

    def _standbys(self, *, stop: bool) -> list[Incarnation]:
        told = {"directory": str(self.places.directory), "instance": self.instance, "stop": stop}
        answer = ask_tool(self.machine, "standbys", told)
        return [
            Incarnation(each["incarnation"], PurePosixPath(each["directory"]))
            for each in answer["standbys"]
        ]

    # --- what operators ask ---------------------------------------------------------------

    def durable_lsn(self) -> int | None:
        """Below which all WAL is durable; None before there is any.  Raises LogshipError."""
        lsn = _durable(self.status())
        return None if lsn is None else Lsn.parse(lsn)

    def status(self) -> dict[str, Any]:
        """The status document (docs/api.md).  Raises LogshipError."""
        return self._shipper("status", self.instance)

    def compat(self, primary_profile: bytes | None = None) -> Verdict:
        """What the version check says now.

        primary_profile: as `shipper profile --json` printed it, in place of the one last heard.
        Raises LogshipError: the check can't be made.
        """
        options = [] if primary_profile is None else ["--primary", "-"]
        try:
            document = self._shipper(
                "compat",
                self.instance,
                *options,
                stdin=(primary_profile or b"").decode(),
                fine=(ExitCode.DONE, ExitCode.REFUSED),
            )
        except LogshipError as error:
            if error.code is Code.NO_INSTALLATION:
                return Verdict(refused=str(error))
            raise
        return verdict_of(document)

    def promote(self, incarnation: str = "") -> dict[str, Any]:
        """Promote, and return the record.  incarnation: one that is kept from before."""
        options = ["--incarnation", incarnation] if incarnation else []
        return self._shipper(
            "promote", self.instance, "--yes", *options, timeout_seconds=PROMOTE_SECONDS
        )

    def wait_protected(self, lsn: str, timeout_seconds: float) -> Progress:
        """Wait until all below `lsn` is durable and replayed, or the version check holds the
        standby with all of it durable, or the time is over."""
        wanted, began_at = Lsn.parse(lsn), time.monotonic()
        durable_seconds = replayed_seconds = None
        status: dict[str, Any] = {}
        while True:
            with contextlib.suppress(LogshipError):
                status = self.status()
            seconds = time.monotonic() - began_at
            held = status.get("phase") == "blocked"
            standby = status.get("standby") or {}
            if durable_seconds is None and _reached(_durable(status), wanted):
                durable_seconds = seconds
            # A standby replays what is not yet durable too, and that protects nothing.
            if (
                durable_seconds is not None
                and replayed_seconds is None
                and _reached(standby.get("replay_lsn"), wanted)
            ):
                replayed_seconds = seconds
            # One that is held may have replayed what is below already.
            done = replayed_seconds is not None or held
            if (done and durable_seconds is not None) or seconds >= timeout_seconds:
                return Progress(
                    durable_seconds,
                    replayed_seconds,
                    held,
                    standby.get("state") == "running",
                    _said(status),
                )
            time.sleep(_POLL_SECONDS)

    @property
    def _environment(self) -> dict[str, str]:
        return {"LOGSHIP_APPLIER": str(self.places.api_socket)}

    def _shipper(self, command: str, *arguments: str, **options: Any) -> dict[str, Any]:
        words = [command, *arguments, "--json", "--applier", str(self.places.api_socket)]
        return ask_logship(self.machine, "shipper", words, **options)


def verdict_of(document: Mapping[str, Any]) -> Verdict:
    """The version check's document (`shipper compat --json`) as a verdict.  Pure."""
    names = ("rule", "outcome", "primary", "standby", "why", "remedy")
    rules = tuple(
        RuleSaid(*(str(finding.get(name) or "") for name in names))
        for finding in document.get("findings") or ()
    )
    # Its shipper would be turned away.
    refused = document.get("refused") or {}
    return Verdict(rules, str(refused.get("what") or ""))


def _durable(status: Mapping[str, Any]) -> str | None:
    """`1:0/3000060` is the timeline, and the LSN that all is durable below."""
    durable = (status.get("store") or {}).get("durable")
    return str(durable).partition(":")[2] if durable else None


def _reached(lsn: str | None, wanted: Lsn) -> bool:
    return lsn is not None and Lsn.parse(lsn) >= wanted


def _said(status: Mapping[str, Any]) -> str:
    """What is wrong, in the applier's words; "": nothing that it knows of."""
    if not status:
        return "the applier does not answer"
    said = [str(alarm.get("what")) for alarm in status.get("alarms") or ()]
    failure = (status.get("standby") or {}).get("last_error")
    if failure and failure not in said:
        said.insert(0, str(failure))
    link = (status.get("link") or {}).get("state")
    if not said and link != "connected":
        said.append(f"the link is {link}")
    return "; ".join(said)

"""The bare trial: what would break if the version check did not hold the standby.

On a copy of the recovery server PostgreSQL runs alone, on the standby's data and the WAL in the
store, with the libraries that the primary preloads and the operator's parameters as they are
written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from logship.errors import Code, LogshipError
from logship.rehearsal.inside.bare import CLOSED, NOTHING, OPEN, START
from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.proofs.opened import (
    look_at_opened,
    look_at_promoted,
    not_looked_at,
    not_promoted,
)
from logship.rehearsal.proofs.reference import Reference
from logship.rehearsal.site.recovery import Recovery
from logship.rehearsal.site.server import Server

TRIAL_SECONDS = 90.0


def trial(
    recovery: Recovery, reference: Reference, parameters: Mapping[str, str] | None = None
) -> tuple[Observation, ...]:
    """Stop the recovery server well, copy it, start it again; try the copy.

    reference: what the primary was like when all of it was durable here; nobody writes until the
    copy is made.  parameters: over those of the instance.

    Raises LogshipError: the recovery server itself does not stop or start; there is nothing to
    try, or nothing to try it with.
    """
    copy = recovery.stopped_copy()
    copy.parameters |= parameters or {}
    try:
        return try_copy(copy, reference)
    finally:
        copy.remove()


def try_copy(copy: Recovery, reference: Reference) -> tuple[Observation, ...]:
    """The same with a copy that is there and is the caller's to remove: the newest incarnation on
    it, by the newest installation of its major.

    Raises LogshipError: there is nothing to try, or nothing to try it with.
    """
    began_at = time.monotonic()
    sockets = copy.machine.home / "run" / "bare"
    server = Server(copy.machine, str(sockets), copy.standby_port)
    told = _told(copy, reference)
    try:
        came = server.ask(
            "bare", {**told, "sockets": str(sockets)}, timeout_seconds=2 * TRIAL_SECONDS
        )
    except LogshipError as error:
        came = {"reached": NOTHING, "said": error.what}
    seconds = time.monotonic() - began_at
    flow = _flow(came, reference.lsn, seconds)
    if flow.result is not Result.PASSED:
        return (flow, *not_promoted("the server did not get so far"))
    if came["reached"] != OPEN:
        symptom = Symptom.CONNECT if came["reached"] == CLOSED else Symptom.PROMOTE
        failed = Observation(Proof.PROMOTE, Result.FAILED, came["said"], frozenset({symptom}))
        return (flow, failed, *not_looked_at("no server was opened"))
    promoted = look_at_promoted(server, "opened, and takes writes", time.monotonic())
    return (flow, *look_at_opened(server, reference, promoted))


def _flow(came: Mapping[str, str], lsn: str, seconds: float) -> Observation:
    broken = {NOTHING: Symptom.START, START: Symptom.REPLAY}.get(came["reached"])
    if broken is not None:
        return Observation(Proof.FLOW, Result.FAILED, came["said"], frozenset({broken}), seconds)
    said = f"replays to {lsn} where nothing holds it"
    if came["reached"] == CLOSED:
        said = "runs; how far it replays can't be asked"
    return Observation(Proof.FLOW, Result.PASSED, said, seconds=seconds)


def _told(copy: Recovery, reference: Reference) -> dict[str, Any]:
    newest = copy.incarnation()
    return {
        "directory": str(newest.directory),
        "bin_directory": str(_bin_directory(copy, newest.major)),
        "port": copy.standby_port,
        "until": reference.lsn,
        "preload": reference.preload,
        "parameters": copy.parameters,
        "seconds": TRIAL_SECONDS,
    }


def _bin_directory(copy: Recovery, major: int) -> PurePosixPath:
    """Raises LogshipError(NO_INSTALLATION)."""
    there = copy.machine.facts.installations
    fitting = [each for each in there if each.split(".")[0] == str(major)]
    if not fitting:
        raise LogshipError(
            Code.NO_INSTALLATION,
            f"there is no PostgreSQL {major} on {copy.machine.name}: it has "
            f"{', '.join(there) or 'none'}",
        )
    return there[max(fitting, key=lambda each: int(each.split(".")[1]))]

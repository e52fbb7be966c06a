"""The `shipper` command line: one module a command, imported only when it is asked for."""

from __future__ import annotations

import sys
from typing import Final

from logship.commandline import Command, Program, run_program

PROGRAM: Final = Program(
    "shipper",
    "Ships the WAL of a production PostgreSQL to the recovery server, and promotes there.",
    {
        "keygen": Command("logship.keygen_command", "make a pair of keys for the link"),
        "init": Command("shipper.commands.init", "write a commented settings file"),
        "join": Command("shipper.commands.join", "join a recovery server with its token"),
        "check": Command("shipper.commands.check", "find everything that would stop `run`"),
        "outbox-command": Command(
            "shipper.commands.outbox_command", "print the primary's settings that fill an outbox"
        ),
        "run": Command("shipper.commands.run", "ship, until stopped"),
        "seed": Command("shipper.commands.seed", "ask the running shipper for a seed"),
        "health": Command("shipper.commands.health", "show whether the running shipper ships"),
        "status": Command("logship.status_command", "show how the instances stand"),
        "compat": Command("shipper.commands.compat", "show by which rules a standby may replay"),
        "profile": Command(
            "shipper.commands.profile", "show what the check is told of the primary"
        ),
        "cost": Command("shipper.commands.cost", "estimate what a bucket takes in a month"),
        "promote": Command("shipper.commands.promote", "open an instance's standby for writing"),
        "rehearse": Command(
            "shipper.commands.rehearse", "try a change on throw-away servers before it is made"
        ),
        "demo": Command("shipper.commands.demo", "protect a cluster, lose it, promote, compare"),
    },
)


def main() -> int:
    """Entry point.  Returns what the process exits with."""
    return run_program(PROGRAM, sys.argv[1:])

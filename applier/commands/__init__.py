"""The `applier` command line: one module a command, imported only when it is asked for."""

from __future__ import annotations

import sys
from typing import Final

from logship.commandline import Command, Program, run_program

PROGRAM: Final = Program(
    "applier",
    "Receives WAL on the recovery server, keeps it, and has standbys replay it.",
    {
        "keygen": Command("logship.keygen_command", "make a pair of keys for the link"),
        "init": Command("applier.commands.init", "write a commented settings file"),
        "check": Command("applier.commands.check", "find everything that would stop `run`"),
        "run": Command("applier.commands.run", "receive, keep and replay, until stopped"),
        "status": Command("logship.status_command", "show how the instances stand"),
        "enroll": Command("applier.commands.enroll", "print a token for a new instance to join"),
        "list": Command("applier.commands.list", "list the instances and where their files are"),
        "add": Command("applier.commands.add", "add an instance while the applier runs"),
        "change": Command("applier.commands.change", "change an instance that was added"),
        "remove": Command("applier.commands.remove", "remove an instance that was added"),
        "seed": Command("applier.commands.seed", "have an instance seeded (again)"),
        "switch-installation": Command(
            "applier.commands.switch_installation", "run a standby on another minor"
        ),
        "accept": Command("applier.commands.accept", "let another cluster take one's place"),
        "forget": Command("applier.commands.forget", "remove a cluster of before an upgrade"),
        "window": Command("applier.commands.window", "show to which moments one can be restored"),
        "restore": Command("applier.commands.restore", "restore an instance to a moment"),
        "drill": Command("applier.commands.drill", "prove that an instance can be recovered"),
        "retention": Command("applier.commands.retention", "remove what nothing needs any more"),
    },
)


def main() -> int:
    """Entry point.  Returns what the process exits with."""
    return run_program(PROGRAM, sys.argv[1:])

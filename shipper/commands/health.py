"""Show whether the shipper that runs here ships: for health checks of containers and monitoring.

Exits with 0 while it is connected to its primary and to its destination, with 1 otherwise.  A
shipper that waits for either comes back by itself: do not restart it for that.
"""

from __future__ import annotations

import argparse
from typing import Any

from logship.commandline import add_config_argument, add_json_argument, print_json
from logship.errors import ExitCode
from shipper.settings import DEFAULT_SETTINGS_FILE, load_shipper_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_argument(parser, DEFAULT_SETTINGS_FILE)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    from shipper.health import ask

    found = ask(load_shipper_settings(args.config).instance_directory)
    if args.json:
        print_json(found)
    else:
        print("\n".join(lines_of(found)))
    return ExitCode.DONE if found["healthy"] else ExitCode.FAILED


def lines_of(found: dict[str, Any]) -> list[str]:
    """The answer for a terminal."""
    notes = [f"{name} away" for name in found["away"]]
    if found["state"] == "shipping" and not found["primary_reachable"]:
        notes.insert(0, "primary away")
    what = ", ".join([found["state"], *notes])
    lines = [f"{found['instance']}: {what} for {found['state_seconds']:.1f} s"]
    for error in (found["error"], *found["away"].values()):
        if error is not None:
            lines += [f"  {error['what']} [{error['code']}]"]
            lines += [f"  hint: {error['hint']}"] if error["hint"] else []
    return lines

"""List the instances: those of the settings file and those that were added.

Asks the running applier; where none runs, reads the files that it would.  `applier status`
shows how they stand.
"""

from __future__ import annotations

import argparse
from typing import Any

from applier.settings import DEFAULT_SETTINGS_FILE, load_applier_settings
from logship.applier_client import ApplierClient, find_socket
from logship.commandline import add_config_argument, add_json_argument, print_json
from logship.errors import Code, ExitCode, LogshipError
from logship.status_command import add_applier_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_argument(parser, DEFAULT_SETTINGS_FILE)
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    from applier.fleet.report import list_lines

    documents, running = _documents(args)
    if args.json:
        print_json({"instances": documents, "running": running})
    else:
        print("\n".join(list_lines(documents)))
    return ExitCode.DONE


def _documents(args: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """What there is, and whether an applier runs that says so."""
    try:
        return ApplierClient(find_socket(args.applier)).fleet(), True
    except LogshipError as error:
        if error.code is not Code.APPLIER_UNREACHABLE or not error.retryable:
            raise
    from applier.fleet.registry import Registry
    from applier.operations.fleet import describe_fleet

    settings = load_applier_settings(args.config)
    return describe_fleet(settings, Registry(settings.directory).load()), False

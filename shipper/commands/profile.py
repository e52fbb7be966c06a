"""Show what the applier is told of the primary, for its version check.

Asks the primary as `shipper run` does and waits until all of it is read: the server, its
parameters, every database with the collations and extensions in it, and the host if the
server runs on this one.  Changes nothing, and needs no applier.

With --json, the answer is what `shipper compat NAME --primary FILE` compares on the recovery
server: so a change of the primary can be judged by a copy that has it behind it.
"""

from __future__ import annotations

import argparse
import asyncio

from logship.commandline import add_config_argument, add_json_argument, print_json
from logship.errors import ExitCode
from logship.logs import set_up_logs
from logship.profile_document import profile_document
from shipper.commands.profile_view import render_profile
from shipper.settings import DEFAULT_SETTINGS_FILE, load_shipper_settings
from shipper.sources.primary_profile import read_primary_profile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_argument(parser, DEFAULT_SETTINGS_FILE)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    settings = load_shipper_settings(args.config)
    set_up_logs(settings.log)
    profile = asyncio.run(
        read_primary_profile(
            settings,
            application_name=f"{settings.application_name}_profile",
            within_seconds=None,
        )
    )
    if args.json:
        print_json(profile_document(profile))
    else:
        print(render_profile(profile))
    return ExitCode.DONE

"""Ship one instance's WAL, until a signal (SIGTERM, SIGINT) stops it."""

from __future__ import annotations

import argparse

from logship.commandline import add_config_argument
from logship.errors import ExitCode
from shipper.settings import DEFAULT_SETTINGS_FILE, load_shipper_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_argument(parser, DEFAULT_SETTINGS_FILE)
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="write the bucket from now on, whoever wrote it before; that one stops",
    )


def run(args: argparse.Namespace) -> int:
    settings = load_shipper_settings(args.config)
    from logship.logs import set_up_logs

    set_up_logs(settings.log)
    from shipper import agent

    agent.run(settings, take_over=args.take_over)
    return ExitCode.DONE

"""Receive WAL, keep it and have standbys replay it, until a signal stops it.

SIGTERM and SIGINT stop the applier; the standbys go on and are adopted at the next start, or
stop with it, where standby.stop_with_applier says so.
"""

from __future__ import annotations

import argparse

from applier.settings import DEFAULT_SETTINGS_FILE, load_applier_settings
from logship.commandline import add_config_argument
from logship.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_argument(parser, DEFAULT_SETTINGS_FILE)


def run(args: argparse.Namespace) -> int:
    settings = load_applier_settings(args.config)
    from logship.logs import set_up_logs

    set_up_logs(settings.log)
    from applier import service

    service.run(settings)
    return ExitCode.DONE

"""Write a settings file in which every setting is explained, ready to be edited."""

from __future__ import annotations

import argparse
from pathlib import Path

from logship.errors import ExitCode
from logship.identity import check_instance_name
from logship.init_files import deliver
from logship.settings_text import render_commented
from shipper.settings import ShipperSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instance", metavar="NAME", help="name of the instance to be shipped")
    parser.add_argument(
        "--output", metavar="F", type=Path, help="new file to write (default: standard output)"
    )


def run(args: argparse.Namespace) -> int:
    values: dict[str, object] = {}
    if args.instance is not None:
        values["instance"] = check_instance_name(args.instance)
        values["link.secret_key_file"] = f"/etc/logship/{args.instance}.key"
    deliver(render_commented(ShipperSettings, "Settings of `shipper run`.", values), args.output)
    return ExitCode.DONE

"""Write a settings file in which every setting is explained, ready to be edited."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from applier.settings import ApplierSettings
from logship.errors import Code, ExitCode, UsageError
from logship.identity import check_instance_name
from logship.init_files import deliver
from logship.settings_text import render_commented

FIRST_STANDBY_PORT: Final = 5433
"""Next to PostgreSQL's own 5432, which a server of the recovery host's own may have."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--instance",
        metavar="NAME",
        nargs="+",
        action="extend",
        default=[],
        help="names of the instances to be declared in it (default: none; `applier enroll` and "
        "`applier add` bring them while the applier runs)",
    )
    parser.add_argument(
        "--output", metavar="F", type=Path, help="new file to write (default: standard output)"
    )


def run(args: argparse.Namespace) -> int:
    values: dict[str, object] = {}
    for number, name in enumerate(args.instance):
        check_instance_name(name)
        if f"instances.{name}.port" in values:
            raise UsageError(Code.USAGE, f"--instance {name} is given twice", "name each once")
        values[f"instances.{name}.public_key_file"] = f"/etc/logship/{name}.pub"
        values[f"instances.{name}.port"] = FIRST_STANDBY_PORT + number
    deliver(render_commented(ApplierSettings, "Settings of `applier run`.", values), args.output)
    return ExitCode.DONE

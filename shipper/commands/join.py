"""Join a recovery server with a token that `applier enroll` printed there.

Asks the primary what it is, makes a pair of keys, has the applier register the instance with it,
and writes the settings file.  No key has to be copied, and nothing that exists is overwritten.
If it breaks off, repeat it: with the same token, or a new one if that has ended meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Final

from logship.checks import check_directory
from logship.commandline import add_json_argument, print_json
from logship.errors import Code, ExitCode, LogshipError, RefusedError, UsageError
from logship.frames import Joined
from logship.identity import Profile
from logship.link.token import MAX_TOKEN_CHARACTERS, JoinToken
from logship.settings import SettingsError, parse_settings
from logship.settings_text import render_commented
from shipper.commands.join_files import JoinFiles
from shipper.commands.join_request import redeem
from shipper.settings import DEFAULT_SETTINGS_FILE, ShipperSettings

STANDARD_INPUT: Final = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "token",
        metavar="TOKEN",
        help="what applier enroll printed; - reads it from standard input, where no list of "
        "processes shows it",
    )
    parser.add_argument(
        "--conninfo",
        metavar="C",
        required=True,
        help="how the primary is reached: a libpq connection string or URI, better without a "
        "password",
    )
    parser.add_argument(
        "--config",
        metavar="F",
        type=Path,
        help="settings file to write; the keys go beside it (default: "
        f"{DEFAULT_SETTINGS_FILE.parent}/shipper-NAME.toml)",
    )
    parser.add_argument(
        "--state-directory",
        metavar="DIR",
        type=Path,
        help="state_directory of the settings, if not the default",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    text = args.token
    if text == STANDARD_INPUT:
        text = sys.stdin.read(MAX_TOKEN_CHARACTERS + 1)
    token = JoinToken.parse(text)
    default = DEFAULT_SETTINGS_FILE.with_name(f"shipper-{token.instance}.toml")
    files = JoinFiles.beside(args.config or default, token.instance)
    settings_text, settings = settings_of(token, files, args.conninfo, args.state_directory)
    files.check()
    profile = asyncio.run(read_profile(settings))
    with files.held():
        pair = files.keys()
        joined = asyncio.run(redeem(token, pair.public, profile))
        files.finish(token.applier_public_key, settings_text)
    _show(joined, files, pair.public, as_json=args.json)
    return ExitCode.DONE


def settings_of(
    token: JoinToken, files: JoinFiles, conninfo: str, state_directory: Path | None
) -> tuple[str, ShipperSettings]:
    """The settings file, every setting explained, and what it says.

    Raises UsageError, and RefusedError(CHECK_FAILED) if the state could not be kept.
    """
    values: dict[str, object] = {
        "instance": token.instance,
        "primary.conninfo": conninfo,
        "link.address": token.address,
        "link.applier_public_key_file": files.applier_key,
        "link.secret_key_file": files.secret_key,
    }
    if state_directory is not None:
        values["state_directory"] = state_directory.absolute()
    text = render_commented(ShipperSettings, "Settings of `shipper run`.", values)
    try:
        settings = parse_settings(text, ShipperSettings, file=files.settings)
    except SettingsError as error:
        # Of a file that is not written yet: its lines would say nothing.
        first = error.findings[0]
        raise UsageError(Code.USAGE, first.what, first.hint) from error
    state = check_directory("state-directory", settings.instance_directory)
    if state.level != "ok":
        raise RefusedError(Code.CHECK_FAILED, state.what, state.hint)
    return text, settings


async def read_profile(settings: ShipperSettings) -> Profile:
    """What the primary is, with what surrounds it.  Raises LogshipError."""
    from shipper.sources.environment import FIRST_READ_SECONDS
    from shipper.sources.primary_profile import read_primary_profile

    try:
        return await read_primary_profile(
            settings,
            application_name=settings.application_name,
            within_seconds=FIRST_READ_SECONDS,
        )
    except LogshipError as error:
        if error.code is not Code.PRIMARY_UNREACHABLE:
            raise
        raise LogshipError(
            error.code,
            error.what,
            "check that it runs and that --conninfo leads to it, then repeat the command: the "
            "token is still good",
            retryable=True,
        ) from error


def _show(joined: Joined, files: JoinFiles, public_key: str, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "instance": joined.instance,
                "settings_file": str(files.settings),
                "secret_key_file": str(files.secret_key),
                "public_key": public_key,
                "standby_port": joined.standby_port or None,
                "notes": joined.notes,
            }
        )
        return
    print(f"joined        {joined.instance}")
    print(f"settings      {files.settings}")
    print(f"secret key    {files.secret_key} (keep it here)")
    if joined.standby_port:
        print(f"standby port  {joined.standby_port}, on the recovery server, after a promotion")
    for note in joined.notes:
        print(f"look at       {note}")
    print(f"next          shipper check --config {files.settings}")
    print(f"              shipper run --config {files.settings}")

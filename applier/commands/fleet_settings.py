"""Settings of an instance on a command line: `--set key=value`, as in the settings file."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

from logship.errors import Code, UsageError


def add_key_arguments(parser: argparse.ArgumentParser) -> None:
    """The shipper's public key."""
    parser.add_argument(
        "--public-key",
        metavar="K",
        default="",
        help="public key of its shipper (40 characters); one that begins with - as --public-key=K",
    )
    parser.add_argument(
        "--public-key-file",
        metavar="F",
        type=Path,
        help="file of that key, as `keygen` wrote it (.pub); read now",
    )


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="assignments",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="one more setting, as in [instances.NAME] of the settings file; an entry of its "
        "table `settings` as settings.NAME=VALUE; may be given several times",
    )


def said(args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments say.  Raises UsageError, KEY_MISSING."""
    settings = dict(_assignment(text) for text in args.assignments)
    if args.public_key and args.public_key_file is not None:
        raise UsageError(
            Code.USAGE, "--public-key and --public-key-file are both given", "give one of them"
        )
    if args.public_key_file is not None:
        from logship.link.keys import load_public

        settings["public_key"] = load_public(args.public_key_file)
    elif args.public_key:
        settings["public_key"] = args.public_key
    return settings


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UsageError(
            Code.USAGE, f"--set {text}: it must be KEY=VALUE", "for example --set seed=manual"
        )
    return key, _value(value.strip())


def _value(text: str) -> Any:
    """A value of TOML, else the text itself: a shell eats quotes."""
    try:
        document = tomllib.loads(f"value = {text}\n")
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return text
    # Text with a line's end in it may be more than a value.
    return document["value"] if len(document) == 1 else text

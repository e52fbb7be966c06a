"""Make a pair of keys for the link: DIR/NAME.key (secret, mode 0600) and DIR/NAME.pub.

The secret key stays on this host.  The public key goes to the other side's settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from logship.commandline import add_json_argument, print_json
from logship.errors import Code, ExitCode, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="where to write the files")
    parser.add_argument(
        "--name",
        default=parser.prog.partition(" ")[0],
        help="name of the files, without their endings (default: %(default)s)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    if not args.name or args.name != Path(args.name).name or args.name.startswith("."):
        raise UsageError(
            Code.USAGE, f"{args.name!r} cannot name a key", "give a plain file name without ending"
        )
    from logship.link.keys import generate

    directory: Path = args.directory.absolute()
    pair = generate(directory, args.name)
    secret_file, public_file = directory / f"{args.name}.key", directory / f"{args.name}.pub"
    if args.json:
        print_json(
            {
                "public_key": pair.public,
                "public_key_file": str(public_file),
                "secret_key_file": str(secret_file),
            }
        )
    else:
        print(f"secret key:  {secret_file} (keep it here)")
        print(f"public key:  {public_file} (for the other side)")
        print(f"             {pair.public}")
    return ExitCode.DONE

"""Make a pair of keys for the link: DIR/NAME.key (secret, mode 0600) and DIR/NAME.pub.

The secret key stays on this host.  The public key goes to the other side's settings.

With --age: an age identity instead, for objects in a bucket: DIR/NAME.identity.  It belongs on
the recovery server, with a copy in a safe; its public key goes to the shippers' settings.
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
    parser.add_argument(
        "--age", action="store_true", help="make an age identity, which opens encrypted objects"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    if not args.name or args.name != Path(args.name).name or args.name.startswith("."):
        raise UsageError(
            Code.USAGE, f"{args.name!r} cannot name a key", "give a plain file name without ending"
        )
    directory: Path = args.directory.absolute()
    return (_age_identity if args.age else _link_keys)(directory, args)


def _age_identity(directory: Path, args: argparse.Namespace) -> int:
    from logship.objects.encryption import make_identity_file

    file = directory / f"{args.name}.identity"
    pair = make_identity_file(file)
    if args.json:
        print_json({"public_key": pair.recipient, "identity_file": str(file)})
    else:
        print(f"identity:    {file} (keep it here, and a copy in a safe)")
        print(f"public key:  {pair.recipient} (for the shippers)")
    return ExitCode.DONE


def _link_keys(directory: Path, args: argparse.Namespace) -> int:
    from logship.link.keys import generate

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

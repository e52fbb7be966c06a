"""The flags of `shipper rehearse` that stand in for a plan's file."""

from __future__ import annotations

import argparse
from pathlib import Path

from logship.errors import Code, UsageError
from logship.rehearsal.engine import CURRENT_LOGSHIP
from logship.rehearsal.plan import PATIENCE_SECONDS
from logship.rehearsal.plan.flags import Flags, Order, assignments

_ON_OFF = {"on": True, "off": False}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """None has a default here, so that what was given can be told from what was not."""
    start = parser.add_argument_group("what there is, instead of a plan")
    start.add_argument("--from", dest="from_image", metavar="IMAGE", help="the image of both sides")
    start.add_argument("--primary-image", metavar="IMAGE", help="the primary's, if it is another")
    start.add_argument("--standby-image", metavar="IMAGE", help="the standby's, if it is another")
    start.add_argument(
        "--shipper",
        metavar="LOGSHIP",
        help=f'a wheel or a directory with the packages (default: "{CURRENT_LOGSHIP}", this one)',
    )
    start.add_argument("--applier", metavar="LOGSHIP", help="the same for the recovery server")
    start.add_argument(
        "--parameter",
        metavar="NAME=VALUE",
        action="append",
        help="a parameter of the primary from its start (may be repeated)",
    )
    start.add_argument("--locale", metavar="LOCALE", help="of the cluster (default: C)")
    start.add_argument("--icu-locale", metavar="LOCALE", help="order text by ICU, in this locale")
    start.add_argument("--rows", metavar="N", type=int, help="of generated tables (default: 2000)")
    start.add_argument(
        "--schema", metavar="F", type=Path, help="a dump in plain SQL to start from as well"
    )
    start.add_argument(
        "--instance",
        metavar="NAME",
        help="start from a copy of what this recovery server keeps of an instance",
    )
    start.add_argument(
        "--applier-config", metavar="F", type=Path, help="settings of the applier that has it"
    )
    start.add_argument(
        "--patience-seconds",
        metavar="S",
        type=float,
        help=f"how long a standby may take to follow again (default: {PATIENCE_SECONDS:g})",
    )
    _add_changes(parser.add_argument_group("what changes, instead of a plan"))


def _add_changes(changes: argparse._ArgumentGroup) -> None:
    changes.add_argument("--to", dest="to_image", metavar="IMAGE", help="the image to go to")
    changes.add_argument(
        "--order",
        choices=[each.value for each in Order],
        help=f"which side goes there (default: {Order.STANDBY_FIRST})",
    )
    changes.add_argument(
        "--to-major",
        metavar="N",
        type=int,
        help="pg_upgrade of the primary to this major, in the image of --to, which has both",
    )
    changes.add_argument(
        "--set-primary",
        metavar="NAME=VALUE",
        action="append",
        help="change a parameter of the primary (may be repeated)",
    )
    changes.add_argument(
        "--set-standby",
        metavar="NAME=VALUE",
        action="append",
        help="change one in the standby's settings (may be repeated)",
    )
    changes.add_argument("--sql", metavar="F", type=Path, help="run statements on the primary")
    changes.add_argument("--sql-database", metavar="DB", help="where they run (default: postgres)")
    changes.add_argument("--checksums", choices=list(_ON_OFF), help="data checksums of the primary")
    changes.add_argument("--shipper-to", metavar="LOGSHIP", help="go on with another shipper")
    changes.add_argument("--applier-to", metavar="LOGSHIP", help="go on with another applier")


_NAMES = (
    "from_image",
    "to_image",
    "order",
    "primary_image",
    "standby_image",
    "to_major",
    "sql",
    "sql_database",
    "shipper",
    "applier",
    "shipper_to",
    "applier_to",
    "rows",
    "schema",
    "instance",
    "applier_config",
    "locale",
    "icu_locale",
    "patience_seconds",
)
_ASSIGNMENTS = {
    "set_primary": "set_primary",
    "set_standby": "set_standby",
    "parameter": "parameters",
}


def given(args: argparse.Namespace) -> list[str]:
    """The flags that were given, as they are written."""
    names = [*_NAMES, *_ASSIGNMENTS, "checksums"]
    written = {"from_image": "from", "to_image": "to"}
    found = [written.get(name, name) for name in names if getattr(args, name) is not None]
    return [f"--{name.replace('_', '-')}" for name in found]


def flags_of(args: argparse.Namespace) -> Flags:
    """Raises UsageError: there is no --from, or an assignment is none."""
    if args.from_image is None:
        raise UsageError(
            Code.USAGE,
            "there is nothing to rehearse",
            "name a plan's file, or --from IMAGE and what changes: docs/rehearsals.md",
        )
    values = {name: getattr(args, name) for name in _NAMES}
    for name, field in _ASSIGNMENTS.items():
        if words := getattr(args, name):
            values[field] = assignments(f"--{name.replace('_', '-')}", words)
    if args.checksums is not None:
        values["checksums"] = _ON_OFF[args.checksums]
    return Flags(**{name: value for name, value in values.items() if value is not None})

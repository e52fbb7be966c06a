"""Parameters of PostgreSQL that an operator set and that a server does not take: refused before
they are in force where that is known, and named with the way back where it is not."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from applier.standby.configuration import SettingValue
from logship.errors import Code, UsageError
from logship.postgres.installations import Installation
from logship.postgres.parameters import complaint_of
from logship.postgres.run_as import RunAs


async def check_parameters(
    installations: Sequence[Installation], run_as: RunAs, parameters: Mapping[str, SettingValue]
) -> None:
    """Ask those that the standby may run on, oldest first.

    Raises UsageError(SETTINGS) for a parameter that none of them takes, with the words of the
    newest.
    """
    for name, value in parameters.items():
        text = ("on" if value else "off") if isinstance(value, bool) else str(value)
        refused: UsageError | None = None
        for installation in reversed(installations):
            complaint = await complaint_of(installation, run_as, name, text)
            if complaint is None:
                break
            refused = refused or UsageError(
                Code.SETTINGS,
                f"settings.{name}: PostgreSQL {installation.version} says: {complaint.what}",
                complaint.hint
                or "give a name and a value that this PostgreSQL knows, or first install the one "
                "that does",
            )
        else:
            if refused is not None:
                raise refused


def way_back(instance: str, own: Collection[str], of_all: Collection[str], why: str) -> str:
    """What takes out the parameters that a server names which does not start; "": it names none
    that was set.  Pure.

    own, of_all: those in the instance's own settings, and in `standby.settings`.
    why: the server's words.
    """
    named = {each for each in {*own, *of_all} if _names(why, each)}
    ours = sorted(named & set(own))
    theirs = sorted(named - set(own))
    ways = []
    if ours:
        unset = " ".join(f"--unset settings.{name}" for name in ours)
        ways.append(
            f"applier change {instance} {unset} (declared in the settings file: remove "
            f"{', '.join(ours)} there, and restart the applier)"
        )
    if theirs:
        ways.append(
            f"remove {', '.join(theirs)} from standby.settings in the settings file, and restart "
            "the applier"
        )
    return "; ".join(ways)


def _names(why: str, name: str) -> bool:
    return re.search(rf"(?<![\w/.]){re.escape(name)}(?![\w/.])", why, re.IGNORECASE) is not None

"""What Logship needs of other distributions, as they are installed in the running environment."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def runtime_dependencies(name: str = "logship") -> dict[str, Distribution]:
    """All that `name` needs at run time, and what that needs, by normalised name; itself left
    out.  Extras are not followed, nor is what is not installed: a marker left it out."""
    found: dict[str, Distribution] = {}
    wanted = [name]
    while wanted:
        for requirement in distribution(wanted.pop()).requires or ():
            match = _NAME.match(requirement)
            if match is None or re.search(r"\bextra\s*==", requirement):
                continue
            key = re.sub(r"[-_.]+", "-", match[0]).lower()
            if key in found:
                continue
            try:
                found[key] = distribution(match[0])
            except PackageNotFoundError:
                continue
            wanted.append(match[0])
    return found

"""What both `init` commands do with the text that they made."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from logship.errors import Code, LogshipError, RefusedError


def deliver(text: str, output: Path | None) -> None:
    """Write `text` to standard output, or to the new file `output` (mode 0600).

    Settings may come to hold a password, hence the mode.  Raises RefusedError(SETTINGS) if
    the file exists: nobody's settings are overwritten.
    """
    if output is None:
        sys.stdout.write(text)
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RefusedError(
            Code.SETTINGS, f"{output} exists already", "choose another name, or move it away"
        ) from None
    except OSError as error:
        raise LogshipError(
            Code.SETTINGS,
            f"{output} can't be written: {error.strerror}",
            "its directory must exist and be writable",
        ) from error
    print(f"wrote {output}; edit it, then run `check --config {output}`", file=sys.stderr)

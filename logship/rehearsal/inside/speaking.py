"""How the programs here are asked and answer: JSON on standard input, JSON on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from logship.errors import Code, LogshipError


def answer(work: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> int:
    """Do the work that standard input asks for and print what comes of it.

    Returns the exit status: 1 if it failed, and `error` says why, as with `--json`.  What JSON has
    no word for is printed as text.
    """
    try:
        document = work(json.load(sys.stdin))
    except LogshipError as error:
        document = {"error": error.as_dict()}
    except Exception as error:
        # Whoever asked is on another machine, and has nothing but this.
        what = f"{type(error).__name__}: {str(error).strip()}"
        document = {"error": LogshipError(Code.REHEARSAL_FAILED, what).as_dict()}
    print(json.dumps(document, default=str), flush=True)
    return 1 if "error" in document else 0

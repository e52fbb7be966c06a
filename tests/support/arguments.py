"""Numbers on the command lines of what is run beside the tests."""

from __future__ import annotations

import argparse
import math


def count(text: str) -> int:
    """One or more: with none, all would be well and nothing tried."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return number


def minutes(text: str) -> float:
    """More than none."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number

"""What a peer is refused with: an error as a `refuse` frame and back; versions too far apart."""

from __future__ import annotations

from typing import Final

from logship.errors import Code, LogshipError
from logship.frames import Refuse

MAX_REASON_CHARACTERS: Final = 4000
"""Of an error's words in a frame.  They may repeat what the peer said, and a frame that is too
large for its receiver would tell it nothing."""


def refusal(error: LogshipError) -> Refuse:
    """The frame that tells `error`."""
    return Refuse(
        code=str(error.code),
        what=error.what[:MAX_REASON_CHARACTERS],
        hint=error.hint[:MAX_REASON_CHARACTERS],
        retryable=error.retryable,
    )


def error_of(frame: Refuse) -> LogshipError:
    """The error that `frame` tells."""
    try:
        code = Code(frame.code)
    except ValueError:  # a newer applier's
        return LogshipError(
            Code.INTERNAL, f"{frame.what} [{frame.code}]", frame.hint, retryable=frame.retryable
        )
    return LogshipError(code, frame.what, frame.hint, retryable=frame.retryable)


def version_mismatch(theirs: tuple[int, int], ours: tuple[int, int]) -> LogshipError | None:
    """Why a shipper that speaks protocol versions `theirs` (lowest, highest) can't be talked to,
    or None."""
    low, high = ours
    if theirs[0] <= high and low <= theirs[1] and theirs[0] <= theirs[1]:
        return None
    older = "shipper" if theirs[1] < low else "applier"
    return LogshipError(
        Code.VERSION_MISMATCH,
        f"the shipper speaks protocol versions {theirs[0]} to {theirs[1]}, "
        f"this applier {low} to {high}",
        f"upgrade the {older}: neighbouring versions talk to each other",
    )


def bad_frame(why: str) -> LogshipError:
    """A shipper's frame that ends its session."""
    return LogshipError(
        Code.BAD_FRAME,
        f"the shipper sent what the protocol does not allow: {why}",
        "check that both sides run versions of Logship that may talk",
    )

"""A primary's profile as a JSON document, for those who keep it or send it by hand.

`shipper profile --json` writes it, `shipper compat NAME --primary FILE` has it compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from logship.decoders import convert
from logship.documents import UNREADABLE
from logship.errors import Code, UsageError
from logship.frames import MAX_HEAD_BYTES
from logship.identity import Profile

MAX_PROFILE_BYTES: Final = MAX_HEAD_BYTES
"""As MessagePack.  No shipper tells more: it stands in the head of a frame."""

_HINT = "`shipper profile --json` writes one that can be read"


def profile_document(profile: Profile) -> dict[str, Any]:
    """The profile's fields by their names, the system identifier as text: it has 64 bits, and
    many readers of JSON keep 53."""
    document: dict[str, Any] = msgspec.to_builtins(profile)
    return document | {"system_identifier": str(profile.system_identifier)}


def read_profile_document(document: Mapping[str, Any]) -> Profile:
    """The profile that the document describes.  Keys that are not known are left out, as a
    shipper of a later version may write them.

    Raises UsageError: something is missing, or is not what it should be.
    """
    try:
        profile = convert(document, Profile, strict=False)
        size_bytes = len(msgspec.msgpack.encode(profile))
    except (msgspec.ValidationError, *UNREADABLE) as error:
        raise UsageError(Code.USAGE, f"that is no profile of a primary: {error}", _HINT) from error
    except (OverflowError, UnicodeEncodeError) as error:
        # A number of more than 64 bits, half a character: nothing that a server has.
        raise UsageError(
            Code.USAGE, "that is no profile of a primary: it has values that no server has", _HINT
        ) from error
    if size_bytes > MAX_PROFILE_BYTES:
        raise UsageError(
            Code.USAGE,
            f"the primary's profile takes {size_bytes} bytes, {MAX_PROFILE_BYTES} at most",
            _HINT,
        )
    return profile

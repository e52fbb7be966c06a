"""What msgspec raises for bytes that are no document of ours.

Whoever decodes bytes from a peer or a disk catches all of it: its own error alone leaves out
text that is no UTF-8 and values nested without end, which it raises as Python does.
"""

from __future__ import annotations

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

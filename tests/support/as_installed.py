"""Programs of ours as an installation has them, without what only comes with development.

structlog loads all of rich where it finds it: an installation has none, and each start would take
a fifth longer.
"""

from __future__ import annotations

from typing import Final

AS_INSTALLED: Final = "import sys; sys.modules['rich'] = None"
"""To be run before anything is imported, in a process of its own."""

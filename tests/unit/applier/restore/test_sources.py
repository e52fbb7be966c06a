"""What a restore takes from what the applier wrote down."""

from __future__ import annotations

from typing import Any, cast

from applier.restore.sources import Sources
from applier.standby.tablespaces import Note
from tests.support.link_frames import profile


def test_a_tablespace_that_was_made_after_the_target_is_none_of_the_restores() -> None:
    """Its path may be another server's: to stop before it must be possible all the same."""
    sources = Sources("orders", profile(), cast(Any, None), cast(Any, None), [], None, None)
    early, late = (
        Note(start_lsn=lsn, oid=lsn, location="/mnt/fast", directory="1") for lsn in (100, 200)
    )
    sources.tablespaces = (early, late)
    assert sources.tablespaces_below(200) == (early,)
    assert sources.tablespaces_below(201) == (early, late)

"""What surrounds the primary, for the version check: `logship.environment.Environment`.

    catalogs   the questions, and what their answers mean
    host       what the primary's host tells, if that is this one
    memory     what is known and what is to be asked again, with no I/O
    watch      asks, in the background

`EnvironmentWatch` is made by each source over its `PrimaryQueries`.
"""

from __future__ import annotations

from shipper.sources.environment.watch import FIRST_READ_SECONDS, EnvironmentWatch

__all__ = ["FIRST_READ_SECONDS", "EnvironmentWatch"]

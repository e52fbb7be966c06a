"""Source `archive`: WAL from an outbox directory that the primary's archiver fills.

`archive_library = basic_archive` or an `archive_command` puts files there, and what is durable
at the far end is removed again, or kept.  What the names mean:

- a segment (`000000010000000000000003`) is shipped when it is whole and its pages check out.
- `.history` says where a timeline forked from its parent.  It is shipped before any WAL.
- `.partial` is what a promoted server leaves of its old timeline: the bytes up to the switch
  point, then old contents of the file.  The same bytes stand at the beginning of the new
  timeline's first segment.  The store gets them once as the old timeline's, up to the switch
  point, from whichever file is there; then the history; then the new timeline, from the start
  of that segment.
- `.backup` marks a base backup.  It is not shipped: a seed carries its own label.

`names` and `index` know what is there, `line` decides what comes next and what may go, `memory`
remembers what was given out: all without I/O.  `files` reads, checks and removes, `notices` is
inotify, `watching` keeps the index in step, `removal` removes, `source` joins them; `settling`
tells a file that is still being written, and `words` says each thing once a minute.
"""

from __future__ import annotations

from shipper.sources.archive.source import ArchiveSource

__all__ = ["ArchiveSource"]

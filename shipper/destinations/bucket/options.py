"""Who writes a bucket, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from logship.bucket.epoch import CONFIRM_SECONDS
from shipper.destinations.bucket.log import Limits


@dataclass(frozen=True, kw_only=True)
class BucketOptions:
    """Who writes a bucket, and how."""

    instance: str
    shipper_id: str
    boot_id: str
    protection: str
    state_directory: Path
    take_over: bool = False
    max_delay_seconds: float = 1.0
    max_object_bytes: int = 16 << 20
    compact_grace_seconds: float = 600.0
    sealed: bool = False
    """What is written can't be read again here."""
    uploads_at_once: int = 4
    window_bytes: int = 64 << 20
    """Raw WAL that may be on its way."""
    seed_every_hours: float = 0.0
    """0: none but those that are ordered."""
    alive_every_seconds: float = 0.0
    """A sign of life is put so often; 0: none."""
    confirm_seconds: float = CONFIRM_SECONDS
    patience_seconds: float = 30.0
    """For so long an upload is tried again before the connection counts as lost."""

    @property
    def limits(self) -> Limits:
        return Limits(
            self.max_delay_seconds,
            self.max_object_bytes,
            self.uploads_at_once,
            self.patience_seconds,
        )

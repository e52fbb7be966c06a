"""What the signs of life of an instance's shipper mean.  Pure: what was read goes in, with when.

All of it is by the reader's own clock, which stands still while the machine sleeps: it sees nothing
then, and the shipper may have slept with it.
"""

from __future__ import annotations

import time
from typing import Final

from applier.receivers import ShipperSign
from logship.bucket.keys import alive_key
from logship.bucket.sign_of_life import SignOfLife
from logship.errors import Code, LogshipError

SILENT_INTERVALS: Final = 3
"""A shipper is silent once its sign was looked at for so long, and did not change."""
RETRY_SECONDS: Final = 30.0
"""After a bucket that did not say whether there is one."""


class Signs:
    """Those of one instance, one after the other."""

    def __init__(self, instance: str, bucket: str, poll_seconds: float) -> None:
        """poll_seconds: they are looked at no oftener.  bucket: its name, for messages."""
        self._instance = instance
        self._bucket = bucket
        self._poll_seconds = poll_seconds
        self._sign: SignOfLife | None = None
        self._since: float | None = None
        """Since when it was seen not to change, without a break."""
        self._is_renewed = False
        self._is_silent = False
        self._retry = False

    def forget(self) -> None:
        """Nobody looks any more."""
        self._sign = self._since = None
        self._is_renewed = self._is_silent = self._retry = False

    @property
    def is_expected(self) -> bool:
        """Whether there is one that is to be renewed."""
        return self._sign is not None

    @property
    def pause_seconds(self) -> float | None:
        """When to look again; None: not before somebody has reason to."""
        if self._sign is not None:
            return max(self._sign.every_seconds, self._poll_seconds)
        return RETRY_SECONDS if self._retry else None

    @property
    def _silent_after_seconds(self) -> float:
        return SILENT_INTERVALS * (self.pause_seconds or 0.0)

    def came(self, sign: SignOfLife | None, now: float) -> None:
        """It was read.  now: before it was asked for."""
        before = self._sign
        if sign is None or sign.every_seconds <= 0:
            self.forget()
        elif sign != before:
            # The first one that is seen may be of long ago: only its successor tells.
            self._is_renewed = self._since is not None
            self._sign, self._since = sign, now
            self._is_silent = self._retry = False
        elif self._since is None:
            self._since = now
        elif now - self._since >= self._silent_after_seconds:
            self._is_silent = True

    def failed(self) -> None:
        """It could not be read: the shipper may not have reached the bucket either."""
        self._since = None
        self._is_renewed = False
        self._retry = True

    def standing(self) -> ShipperSign | None:
        """What is to be said of it."""
        sign = self._sign
        if sign is None:
            return None
        return ShipperSign(
            sign,
            self._is_renewed and not self._is_silent,
            self._silent_after_seconds,
            self._silence(sign) if self._is_silent else None,
        )

    def _silence(self, sign: SignOfLife) -> LogshipError:
        last = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(sign.sent_at))
        return LogshipError(
            Code.SHIPPER_SILENT,
            f"the shipper of {self._instance} gave no sign of life in {self._bucket} since "
            f"{last}, and one is due each {sign.every_seconds:g} s: what its primary writes "
            "since then is not there",
            "look at it on the production host: shipper health, and its log; if it is gone for "
            f"good and is not missed, remove {alive_key(self._instance)} from the bucket",
            retryable=True,
        )

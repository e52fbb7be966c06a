"""Going on with promotions that were interrupted."""

from __future__ import annotations

import asyncio

import structlog

from applier.operations.instance import Instance
from applier.operations.promotion import resume
from logship.errors import Code, LogshipError

log = structlog.get_logger(__name__)

FIRST_FINISH_PAUSE_SECONDS = 1.0
MAX_FINISH_PAUSE_SECONDS = 30.0
"""Between tries to finish a promotion that was interrupted."""


class Finishing:
    """A promotion that a crash interrupted, or that failed where there is no way back, is finished
    in the background, one try after the other."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def go_on_with(self, instance: Instance) -> None:
        """Finish its promotion in the background, if there is one to be finished."""
        if _is_unfinished(instance) and instance.name not in self._names:
            self._names.add(instance.name)
            finishing = instance.spawn(self._finish(instance))
            finishing.add_done_callback(lambda _: self._names.discard(instance.name))

    async def _finish(self, instance: Instance) -> None:
        """Until it is done: nothing else may become of a fenced instance."""
        pause_seconds = FIRST_FINISH_PAUSE_SECONDS
        alarm: Code | None = None
        while _is_unfinished(instance):
            try:
                await resume(
                    instance, lambda step, facts: log.info("promotion", step=step, **facts)
                )
            except (LogshipError, OSError) as error:
                # An operator's own try may be under way: that is no alarm.
                if not instance.promotion_turn.locked():
                    failure = _as_logship_error(instance, error)
                    alarm = failure.code
                    instance.alarms.raise_error(failure)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, MAX_FINISH_PAUSE_SECONDS)
        if alarm is not None:
            instance.alarms.clear(alarm)


def _is_unfinished(instance: Instance) -> bool:
    """Whether a promotion of it was begun that neither came to its end nor was taken back."""
    return instance.record.fence is not None and instance.record.promotion is None


def _as_logship_error(instance: Instance, error: LogshipError | OSError) -> LogshipError:
    if isinstance(error, LogshipError):
        return error
    return LogshipError(
        Code.PROMOTE_FAILED,
        f"the promotion of {instance.name} can't be finished: {error}",
        "mend the disk; it is tried again by itself",
        retryable=True,
    )

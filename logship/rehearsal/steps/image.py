"""Another image: a minor of PostgreSQL, another operating system, packages that come or go."""

from __future__ import annotations

from logship.rehearsal.outcome import Verdict
from logship.rehearsal.plan import Side, Step
from logship.rehearsal.site.stage import Stage
from logship.rehearsal.steps import Made


class ImageChange:
    """The machine goes on with its data in the other image, as after an upgrade in place."""

    def __init__(self, step: Step) -> None:
        self._side = step.side
        self._image = step.to

    def foresee(self, stage: Stage) -> Verdict:
        if self._side is Side.STANDBY:
            with stage.recovery_copy(image=self._image) as recovery:
                recovery.start()
                return recovery.compat()
        with stage.primary_copy(image=self._image) as primary:
            primary.start()
            return stage.verdict_on(primary)

    def make(self, stage: Stage) -> Made:
        if self._side is Side.STANDBY:
            stage.recovery.change_image(self._image)
            stage.recovery.start()
        else:
            stage.change_primary(self._image)
            stage.primary.start()
            stage.resume_writes()
            stage.ship()
        return Made()

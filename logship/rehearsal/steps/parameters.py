"""Settings of the server on one side."""

from __future__ import annotations

from logship.errors import RefusedError
from logship.rehearsal.outcome import Verdict
from logship.rehearsal.plan import Side, Step
from logship.rehearsal.site.recovery import Recovery
from logship.rehearsal.site.stage import Stage
from logship.rehearsal.steps import Made


class ParameterChange:
    def __init__(self, step: Step) -> None:
        self._side = step.side
        self._parameters = dict(step.parameters)
        self._restart = step.restart

    def foresee(self, stage: Stage) -> Verdict:
        if self._side is Side.STANDBY:
            with stage.recovery_copy() as recovery:
                if refused := self._set(recovery):
                    return Verdict(refused=refused)
                recovery.start()
                return recovery.compat()
        with stage.primary_copy() as primary:
            primary.start()
            primary.set_parameters(self._parameters)
            return stage.verdict_on(primary)

    def make(self, stage: Stage) -> Made:
        if self._side is Side.STANDBY:
            if refused := self._set(stage.recovery):
                return Made(refused)
            stage.recovery.restart_applier()
        else:
            stage.primary.set_parameters(self._parameters, restart=self._restart)
        return Made()

    def _set(self, recovery: Recovery) -> str:
        """What the applier says that does not take them; "": it does."""
        try:
            recovery.set_parameters({**recovery.parameters, **self._parameters})
        except RefusedError as error:
            return error.what
        return ""

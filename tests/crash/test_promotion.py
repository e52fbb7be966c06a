"""A promotion that dies at any step is finished by the next start, or it never was."""

from __future__ import annotations

import contextlib
import signal

import pytest

from logship.errors import LogshipError
from logship.lsn import Lsn
from tests.crash.dying import EXIT_STATUS
from tests.crash.places import NAME, Place, spread

pytestmark = pytest.mark.e2e

FENCED = r"after:^rename .*instance\.json"
SENT = "after:pg_promote"

online_and_offline_majors = pytest.mark.parametrize(
    ("place", "offline"), [(18, False), (14, True)], indirect=["place"]
)


def promote_until(place: Place, step: int | str, *, offline: bool) -> None:
    """A promotion that dies before `step` of it, or comes to its end if there are fewer."""
    if offline:
        done = place.promote_dying(step)
        assert done.returncode in (0, EXIT_STATUS), done.stderr
        return
    place.start_dying_applier(step, counting_from="signal")
    place.pair.wait_following(NAME)
    place.pair.applier.send(signal.SIGUSR1)
    with contextlib.suppress(LogshipError):
        place.pair.promote(NAME)


def crash(place: Place, *, machine: bool) -> None:
    """What is left of ours dies; with the whole machine, the standby's server too."""
    place.pair.applier.stop(signal.SIGKILL)
    if machine:
        place.kill_standby()
    if place.was_opened:
        assert place.record()["fence"] is not None, "opened, and the old line may still come in"


def mend(place: Place) -> None:
    """The applier's next start, with no hand, brings it to a good state."""
    fenced = place.record()["fence"] is not None
    place.pair.applier.start()
    place.wait_answering()
    if not fenced:
        status = place.pair.wait_following(NAME)
        assert status["promotion"] is None
        place.pair.promote(NAME)
    place.check_open()


def steps_of_promotion(place: Place, offline: bool) -> list[str]:
    place.put_back("following")
    promote_until(place, 0, offline=offline)
    steps = place.steps()
    place.stop()
    return steps


@online_and_offline_majors
def test_a_promotion_that_died_is_finished_or_never_was(
    place: Place, offline: bool, at_most: int
) -> None:
    steps = steps_of_promotion(place, offline)
    assert any("pg_promote" in step for step in steps), steps
    for step in spread(len(steps), at_most):
        what = steps[step - 1] if step <= len(steps) else "the end"
        print(f"dies before step {step} of {len(steps)}: {what}", flush=True)
        place.put_back("following")
        promote_until(place, step, offline=offline)
        crash(place, machine=step % 2 == 1)
        mend(place)


@online_and_offline_majors
@pytest.mark.parametrize("moment", ["fenced", "opened"])
def test_finishing_a_promotion_may_die_as_well(
    place: Place, offline: bool, moment: str, at_most: int
) -> None:
    """By the applier's start, or by the same command again, from two moments on."""
    place.put_back("following")
    promote_until(place, FENCED if moment == "fenced" else SENT, offline=offline)
    crash(place, machine=offline)
    assert place.record()["fence"] is not None
    place.stop()
    place.keep(moment)

    place.put_back(moment)
    place.start_dying_applier(0, counting_from="start")
    place.check_open()
    steps = place.steps()
    for step in spread(len(steps), at_most):
        what = steps[step - 1] if step <= len(steps) else "the end"
        print(f"dies again before step {step} of {len(steps)}: {what}", flush=True)
        place.put_back(moment)
        if offline:
            promote_until(place, step, offline=True)
        else:
            place.start_dying_applier(step, counting_from="start")
            place.wait_end_or_record()
        crash(place, machine=step % 2 == 0)
        mend(place)


@pytest.mark.parametrize("place", [14, 18], indirect=True)
def test_a_machine_that_dies_before_the_new_timeline_began_opens_on_a_new_one(
    place: Place,
) -> None:
    """PostgreSQL removes standby.signal before it writes anything of the new timeline.

    A server that died in between has nothing that keeps it from being started as a primary,
    on the old timeline: the same that its lost primary may be writing (`StartupXLOG`).
    """
    place.put_back("following")
    promote_until(place, "before:pg_promote", offline=True)
    crash(place, machine=True)
    (place.pair.standby_directory(NAME) / "standby.signal").unlink()
    mend(place)


@pytest.mark.parametrize("place", [18], indirect=True)
def test_the_old_line_stays_out_whenever_the_applier_died(place: Place) -> None:
    """Its primary lives and its shipper tries all the while."""
    steps = steps_of_promotion(place, offline=False)
    for step in (FENCED, SENT, len(steps)):
        print(f"dies at {step} of {len(steps)}", flush=True)
        place.put_back("following")
        shipper = place.pair.shippers[NAME]
        shipper.log_file.write_bytes(b"")
        promote_until(place, step, offline=False)
        crash(place, machine=False)
        assert place.record()["fence"] is not None
        shipper.start()
        place.server.execute("select pg_switch_wal()")
        mend(place)
        place.wait_fenced()
        stored = str(place.pair.status(NAME)["store"]["durable"]).split(":")[1]
        assert Lsn.parse(stored) <= place.record()["promotion"]["durable_lsn"]
        shipper.stop(signal.SIGKILL)

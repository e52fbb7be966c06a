"""Whole rehearsals of what needs no container: with the PostgreSQL installations of this host."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from logship.rehearsal.outcome import Proof, Result, Symptom
from logship.rehearsal.plan import Database, Kind, Plan, Side, Start, Step
from logship.rehearsal.plugin import Rehearsing
from tests.support import upgrading
from tests.support.installations import postgres_dir
from tests.support.rehearsed import check_outage, check_protected, disputed, raised, said

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
ROWS = 300
LIBRARY = "pg_stat_statements"
CREATE = f"create extension hstore; create extension {LIBRARY}"

needs_debian = pytest.mark.skipif(not upgrading.is_there(), reason="Debian's PostgreSQL 15")


@pytest.fixture
def on_the_host(request: pytest.FixtureRequest) -> Rehearsing:
    return Rehearsing("local", request.path.parent)


def test_more_connections_a_library_and_an_extension_keep_protection(
    on_the_host: Rehearsing,
) -> None:
    image = str(postgres_dir(17))
    both = {"max_connections": "200", "shared_preload_libraries": LIBRARY}
    plan = Plan(
        "the standby first, as more connections want it",
        Start(image, image),
        (
            Step(Kind.PARAMETERS, Side.STANDBY, parameters=both),
            Step(Kind.PARAMETERS, Side.PRIMARY, parameters=both),
            Step(Kind.SQL, Side.PRIMARY, sql=CREATE),
        ),
        Database(ROWS),
    )
    done = on_the_host(plan)
    for outcome in done.steps:
        check_protected(outcome)
        if outcome.step is not None:
            check_outage(outcome)
    done.assert_protected()
    (rule,) = (each for each in done.steps[2].verdict.rules if each.rule == "preload-libraries")
    assert rule.compared == f"{LIBRARY} / {LIBRARY}", "the standby preloads it too"
    alone, more = (said(done.steps[number], Proof.EXTENSIONS) for number in (0, 3))
    assert int(more.split()[0]) > int(alone.split()[0]), "the looks saw libraries that came"


@needs_debian
def test_another_icu_below_the_standby_is_told_before_and_seen(on_the_host: Rehearsing) -> None:
    """Of the same host, so with the same libc: the fetched server brings an ICU of its own."""
    done = on_the_host(
        from_image=str(postgres_dir(15)),
        to_image=str(upgrading.DEBIAN),
        order="standby",
        icu_locale="de",
        rows=ROWS,
    )
    before, change = done.steps
    check_protected(before)
    found = raised(change)
    assert found.pop("collation-versions") == "warn"
    # If the copy's standby was up already, it said so itself.
    assert found.pop("standby-collations", "warn") == "warn"
    assert not found
    (rule,) = (each for each in change.verdict.rules if each.rule == "collation-versions")
    assert "ICU" in rule.compared and "libc" not in rule.compared
    assert not change.held, "a warning holds nothing"
    assert not change.protected
    # In the sample are characters that the older ICU did not know.
    assert change.symptoms == {Symptom.COLLATION_VERSION, Symptom.ORDER}
    assert disputed(change) == []


@pytest.fixture
def blinkered_logship(tmp_path: Path) -> Path:
    """One whose applier knows no PostgreSQL but those of its settings: else it would find Debian's
    by itself, as it does in production."""
    for package in ("logship", "shipper", "applier"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    module = tmp_path / "logship" / "postgres" / "installations.py"
    line = f'DEBIAN_DIRECTORY = Path("{upgrading.DEBIAN.parent}")'
    text = module.read_text()
    assert line in text
    module.write_text(text.replace(line, f'DEBIAN_DIRECTORY = Path("{tmp_path}/none")'))
    return tmp_path


@needs_debian
def test_a_major_that_the_recovery_server_lacks_is_refused_before_and_held(
    on_the_host: Rehearsing, blinkered_logship: Path, shared_tmp_path: Path
) -> None:
    both = f"{upgrading.old_programs(shared_tmp_path)},{upgrading.DEBIAN}"
    plan = Plan(
        "an upgrade of which the recovery server knows nothing",
        Start(both, str(postgres_dir(upgrading.OLD_MAJOR)), applier=str(blinkered_logship)),
        (Step(Kind.MAJOR, Side.PRIMARY, to=both, to_major=upgrading.NEW_MAJOR),),
        Database(ROWS),
        patience_seconds=60.0,
    )
    before, upgrade = on_the_host(plan).steps
    check_protected(before)
    lacking = f"no PostgreSQL {upgrading.NEW_MAJOR}"
    assert lacking in upgrade.verdict.refused
    assert upgrade.held and not upgrade.protected and not upgrade.not_run
    assert lacking in said(upgrade, Proof.FLOW)
    assert upgrade.outage.protection_seconds is not None, "its WAL is stored all the same"
    assert upgrade.outage.standby_seconds is None
    assert disputed(upgrade) == []
    # What there is to promote is the cluster of before.
    old = f"of {upgrade.details['incarnation_before']}"
    of_old = [each for each in upgrade.observations if each.said.startswith(old)]
    assert {each.proof: each.result for each in of_old} == {
        proof: Result.PASSED for proof in Proof if proof is not Proof.FLOW
    }
    of_new = [each for each in upgrade.observations if each not in of_old]
    assert {each.result for each in of_new} == {Result.NOT_RUN}

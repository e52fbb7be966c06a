"""Whole rehearsals in containers, of each kind: what protects goes through, what breaks is seen.

Each is asked for by the fixture of the plugin, as a team would in its own tests.  Where protection
breaks, the version check said so before the step, and what happened in the step agrees.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from logship.rehearsal.outcome import Proof, Symptom
from logship.rehearsal.plan import Database, Kind, Plan, Side, Start, Step
from logship.rehearsal.plugin import Rehearsed
from tests.support.base_images import BaseImages
from tests.support.rehearsed import check_outage, check_protected, disputed, raised

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
ROWS = 300
BEFORE = "815dff78be4d"
"""A Logship of before there were rehearsals."""

Rehearse = Callable[..., Rehearsed]


def test_the_next_minor_standby_first_keeps_protection(
    base_images: BaseImages, tmp_path: Path
) -> None:
    """By the command, with all reports."""
    old, new = (base_images.postgres("bookworm", each) for each in ("16.9", "16.14"))
    files = ["--html", tmp_path / "report.html", "--junit", tmp_path / "report.xml"]
    program = Path(sys.executable).with_name("shipper")
    done = subprocess.run(
        [program, "rehearse", "--from", old, "--to", new, "--rows", str(ROWS), *files, "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "standby first: a newer minor may write WAL" in done.stderr
    report = json.loads(done.stdout)
    assert report["protected"] is True
    assert [each["title"] for each in report["steps"]][1:] == [
        f"standby: image {new}",
        f"primary: image {new}",
    ]
    assert 'failures="0"' in (tmp_path / "report.xml").read_text()
    assert "<html" in (tmp_path / "report.html").read_text()


def test_the_next_minor_primary_first_holds_the_standby(
    rehearsal: Rehearse, base_images: BaseImages
) -> None:
    old, new = (base_images.postgres("bookworm", each) for each in ("16.9", "16.14"))
    done = rehearsal(from_image=old, to_image=new, order="primary-first", rows=ROWS)
    assert not done.protected
    before, primary, standby = done.steps
    check_protected(before)
    assert raised(primary) == {"minor-order": "block"}
    assert primary.held and not primary.symptoms
    assert primary.outage.protection_seconds is not None, "its WAL is stored all the same"
    assert primary.outage.standby_seconds is None
    assert disputed(primary) == ["minor-order"], "these two minors would have got on"
    check_protected(standby)
    check_outage(standby)
    assert standby.outage.exposed_bytes is not None
    with pytest.raises(AssertionError, match="minor-order"):
        done.assert_protected()


def test_a_major_upgrade_leaves_the_old_cluster_until_the_new_one_streams(
    rehearsal: Rehearse, base_images: BaseImages
) -> None:
    image = base_images.with_tools()
    plan = Plan(
        "17 to 18",
        Start(image, image),
        (
            Step(Kind.MAJOR, Side.PRIMARY, to=image, to_major=18),
            Step(Kind.CHECKSUMS, Side.PRIMARY, enable=True),
        ),
        Database(ROWS, locale="en_US.UTF-8", icu_index=False),
    )
    before, upgrade, checksums = rehearsal(plan).steps
    check_protected(before)
    check_protected(upgrade)
    check_outage(upgrade)
    assert upgrade.outage.exposed_bytes is None, "positions of two clusters can't be compared"
    old = str(upgrade.details["incarnation_before"])
    assert old.endswith("-17") and str(upgrade.details["incarnation"]).endswith("-18")
    of_old = [each for each in upgrade.observations if each.said.startswith(f"of {old}")]
    assert {each.proof for each in of_old} == set(Proof) - {Proof.FLOW}
    assert {str(each.result) for each in of_old} == {"passed"}, of_old

    # What pg_checksums does is not in the WAL: the standby's pages stay as they are.
    assert raised(checksums) == {"data-checksums": "warn"}
    assert checksums.symptoms == {Symptom.CHECKSUMS}
    assert disputed(checksums) == []


def test_another_libc_below_the_standby_is_told_before_and_seen(
    rehearsal: Rehearse, base_images: BaseImages
) -> None:
    here, there = (base_images.postgres(system, "17.10") for system in ("bookworm", "trixie"))
    done = rehearsal(
        from_image=here, to_image=there, order="standby", locale="en_US.UTF-8", rows=ROWS
    )
    before, change = done.steps
    check_protected(before)
    said = raised(change)
    assert said.pop("collation-versions") == "warn"
    # If the copy's standby was up already, it said so itself.
    assert said.pop("standby-collations", "warn") == "warn"
    assert not said
    assert not change.held, "a warning holds nothing"
    assert not change.protected
    assert change.symptoms == {Symptom.COLLATION_VERSION}
    assert disputed(change) == []


def test_another_libc_is_no_matter_where_text_has_the_order_of_its_bytes(
    rehearsal: Rehearse, base_images: BaseImages
) -> None:
    here, there = (base_images.postgres(system, "17.10") for system in ("bookworm", "trixie"))
    done = rehearsal(from_image=here, to_image=there, order="standby", locale="C", rows=ROWS)
    before, change = done.steps
    check_protected(before)
    check_protected(change)
    check_outage(change)
    done.assert_protected()


def test_what_the_standby_lacks_is_refused_or_held(
    rehearsal: Rehearse, base_images: BaseImages
) -> None:
    whole = base_images.postgres("bookworm", "17.10")
    lacking = base_images.postgres("bookworm", "17.10", without=("pg_stat_statements", "hstore"))
    plan = Plan(
        "fewer connections, libraries that are not there",
        Start(whole, lacking),
        (
            Step(Kind.PARAMETERS, Side.STANDBY, parameters={"max_connections": "20"}),
            Step(Kind.SQL, Side.PRIMARY, sql="create extension hstore"),
            Step(
                Kind.PARAMETERS,
                Side.PRIMARY,
                parameters={"shared_preload_libraries": "pg_stat_statements"},
            ),
        ),
        Database(ROWS),
    )
    before, connections, extension, preload = rehearsal(plan).steps
    check_protected(before)
    assert "max_connections" in connections.verdict.refused
    assert connections.symptoms == {Symptom.START}, "what PostgreSQL alone makes of it"
    assert not connections.protected and disputed(connections) == []

    said = raised(extension)
    assert said.pop("extension-libraries") == "warn"
    assert set(said) <= {"extension-versions", "standby-libraries"}
    assert not extension.held and extension.symptoms == {Symptom.EXTENSIONS}
    assert "extension-libraries" not in disputed(extension)

    assert raised(preload)["preload-libraries"] == "block"
    assert preload.held and preload.symptoms == {Symptom.START}
    assert "preload-libraries" not in disputed(preload)


@pytest.fixture(scope="module")
def logship_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Logship of an earlier commit."""
    directory = tmp_path_factory.mktemp("before")
    archive = directory / "before.tar"
    made = subprocess.run(
        ["git", "-C", ROOT, "archive", "-o", archive, BEFORE, "logship", "shipper", "applier"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip(f"the earlier Logship is not in this copy of the sources: {made.stderr}")
    shutil.unpack_archive(archive, directory)
    return directory


@pytest.fixture(scope="module")
def logship_of_another_protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("other")
    for package in ("logship", "shipper", "applier"):
        shutil.copytree(
            ROOT / package, directory / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    frames = directory / "logship" / "frames.py"
    text = frames.read_text()
    for name in ("OLDEST_PROTOCOL_VERSION", "PROTOCOL_VERSION"):
        assert f"\n{name}: Final = 1\n" in text
        text = text.replace(f"\n{name}: Final = 1\n", f"\n{name}: Final = 2\n")
    frames.write_text(text)
    return directory


def test_shipper_and_applier_one_version_apart_talk(
    rehearsal: Rehearse, base_images: BaseImages, logship_before: Path
) -> None:
    image = base_images.postgres("bookworm", "17.10")
    before = str(logship_before)
    plan = Plan(
        "the applier's new version, then the shipper's; and the other way round",
        Start(image, image, shipper=before, applier="current"),
        (
            Step(Kind.LOGSHIP, Side.PRIMARY, to="current"),
            Step(Kind.LOGSHIP, Side.STANDBY, to=before),
        ),
        Database(ROWS),
    )
    for outcome in rehearsal(plan).steps:
        check_protected(outcome)
        if outcome.step is not None:
            check_outage(outcome)
            (protocol,) = outcome.verdict.rules
            assert (protocol.outcome, protocol.compared) == ("pass", "1-1 / 1-1")


def test_versions_that_do_not_talk_are_told_before(
    rehearsal: Rehearse, base_images: BaseImages, logship_of_another_protocol: Path
) -> None:
    image = base_images.postgres("bookworm", "17.10")
    done = rehearsal(
        from_image=image,
        applier_to=str(logship_of_another_protocol),
        rows=ROWS,
        patience_seconds=25.0,  # all of it passes where nothing is shipped
    )
    before, change = done.steps
    check_protected(before)
    assert raised(change) == {"link-protocol": "block"}
    assert change.symptoms == {Symptom.LINK}
    assert not change.protected and disputed(change) == []
    assert change.outage.protection_seconds is None
    assert change.outage.exposed_bytes

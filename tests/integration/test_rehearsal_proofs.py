"""The recovery server of a rehearsal and its proofs, on machines of this host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from logship.errors import RefusedError
from logship.lsn import Lsn
from logship.rehearsal.engine.local import LocalEngine
from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.plan import PATIENCE_SECONDS, Database
from logship.rehearsal.proofs import flow
from logship.rehearsal.proofs.drill import promote_copy
from logship.rehearsal.proofs.opened import look_at_opened
from logship.rehearsal.proofs.reference import Reference, take_reference
from logship.rehearsal.proofs.trial import try_copy
from logship.rehearsal.site.primary import Primary
from logship.rehearsal.site.recovery import Recovery
from logship.rehearsal.site.server import Server
from tests.support.rehearsed import engine_of_this_host

pytestmark = pytest.mark.integration

IMAGE = "17"
INSTANCE = "main"
MAX_CONNECTIONS = {"max_connections": "40"}
SEQUENCES = (
    "create sequence untouched",
    "create sequence seeded",
    "select nextval('seeded')",
    "create sequence ids",
    "select nextval('ids') from generate_series(1, 40)",
    "create sequence down increment -3 cache 5",
    "create sequence ends maxvalue 10",
    "create sequence set_back",
)
USED_LATER = (
    "select nextval('ids')",
    "select nextval('ids')",
    "select nextval('down') from generate_series(1, 7)",
    "select nextval('ends')",
    "select setval('set_back', 70, false)",
)


class Site:
    """A primary and a recovery server that follows it."""

    def __init__(self, engine: LocalEngine) -> None:
        database = Database(rows=300, parameters=MAX_CONNECTIONS)
        self.primary = Primary(engine.machine("primary", IMAGE), INSTANCE, database)
        self.primary.create()
        self.primary.sql(
            "create collation german (provider = icu, locale = 'de')",
            "create table germans (id int primary key, name text collate german)",
            "insert into germans values (1, 'Zeppelin'), (2, 'Ähre')",
            "create index germans_name on germans (name)",
            "create extension pg_stat_statements",
            *SEQUENCES,
        )
        self.recovery = Recovery.create(
            engine.machine("recovery", IMAGE), INSTANCE, self.primary.shipper_public_key()
        )
        self.recovery.start()
        self.primary.write_settings(self.recovery.link_address, self.recovery.applier_public_key)
        self.primary.start_shipper()
        self.reference = take_reference(self.primary.server)
        self.check_it_follows()
        # Since the seed: of one the last WAL is older than what is compared, of others not.
        self.primary.sql("checkpoint", *USED_LATER)
        self.reference = take_reference(self.primary.server)
        self.check_it_follows()

    def check_it_follows(self) -> None:
        progress = self.recovery.wait_protected(self.reference.lsn, PATIENCE_SECONDS)
        assert flow.judge(progress).result is Result.PASSED, (progress, self.primary.shipper_log())


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with engine_of_this_host() as engine:
        yield Site(engine)


def by_proof(observations: tuple[Observation, ...]) -> dict[Proof, Observation]:
    found = {each.proof: each for each in observations}
    assert len(found) == len(observations)
    return found


def test_a_recovery_server_follows_and_is_asked(site: Site) -> None:
    recovery = site.recovery
    (incarnation,) = recovery.incarnations()
    assert recovery.incarnation() == incarnation
    assert incarnation.major == 17
    verdict = recovery.compat()
    assert not verdict.blocked
    assert "minor-order" in {each.rule for each in verdict.rules}
    with pytest.raises(RefusedError, match="fsync"):
        recovery.set_parameters({"fsync": "off"})
    with pytest.raises(RefusedError, match="max_connections = 20 is less than the primary's 40"):
        recovery.set_parameters({"max_connections": "20"})
    assert recovery.parameters == {}
    beyond = str(Lsn(Lsn.parse(site.reference.lsn) + (1 << 40)))
    assert flow.judge(recovery.wait_protected(beyond, 0.0)).symptoms == {Symptom.LINK}


def test_copies_are_promoted_and_tried(site: Site) -> None:
    recovery = site.recovery
    recovery.set_parameters({"work_mem": "5MB"})
    copy = recovery.stopped_copy()
    try:
        tried = copy.fork()
        try:
            try_what_the_check_would_hold(tried, site.reference)
        finally:
            tried.remove()
        look_at_a_promoted_copy(copy, site.reference)
    finally:
        copy.remove()
    # The recovery server itself goes on.
    site.check_it_follows()
    looked = "select pg_is_in_recovery(), current_setting('work_mem')"
    assert recovery.server.sql(looked) == [[True, "5MB"]]


def try_what_the_check_would_hold(copy: Recovery, reference: Reference) -> None:
    copy.parameters = {"max_connections": "20"}
    seen = by_proof(try_copy(copy, reference))
    assert seen[Proof.FLOW].symptoms == {Symptom.START}
    assert "FATAL:  recovery aborted" in seen[Proof.FLOW].said
    assert "max_connections = 20 is a lower setting" in seen[Proof.FLOW].said
    rest = {each.result for proof, each in seen.items() if proof is not Proof.FLOW}
    assert rest == {Result.NOT_RUN}

    copy.parameters = {}
    lacking = by_proof(try_copy(copy, replace(reference, preload="lacking")))
    assert lacking[Proof.FLOW].symptoms == {Symptom.START}
    assert 'could not access file "lacking"' in lacking[Proof.FLOW].said

    observations = try_copy(copy, reference)
    assert [each.proof for each in observations] == list(Proof)
    for each in observations:
        assert each.result is Result.PASSED, each


def look_at_a_promoted_copy(copy: Recovery, reference: Reference) -> None:
    """Faults are made by hand once it was seen that there are none."""
    observations = promote_copy(copy, reference)
    assert [each.proof for each in observations] == list(Proof)[1:]
    for each in observations:
        assert each.result is Result.PASSED, each
    promoted = observations[0]
    assert "opened timeline 2" in promoted.said

    break_everything(copy.server)
    lacking = replace(reference, preload="pg_stat_statements, lacking")
    seen = by_proof(look_at_opened(copy.server, lacking, promoted))
    assert seen[Proof.CONTENTS].symptoms == {Symptom.CONTENTS}
    assert "postgres.public.germans: 3 " in seen[Proof.CONTENTS].said
    assert "sequence postgres.public.ids: at 41 (step 1, " in seen[Proof.CONTENTS].said
    assert seen[Proof.AMCHECK].symptoms == {Symptom.INDEXES}
    assert "germans_name" in seen[Proof.AMCHECK].said
    assert seen[Proof.COLLATIONS].symptoms == {Symptom.COLLATION_VERSION}
    assert "postgres/public.german: recorded 0, here" in seen[Proof.COLLATIONS].said
    assert seen[Proof.EXTENSIONS].symptoms == {Symptom.EXTENSIONS}
    assert "lacking" in seen[Proof.EXTENSIONS].said
    assert "$libdir/gone" in seen[Proof.EXTENSIONS].said


def break_everything(opened: Server) -> None:
    index = "update pg_index set indisready = {} where indexrelid = 'germans_name'::regclass"
    opened.sql(
        index.format("false"),
        "insert into germans values (3, 'not in the index')",
        index.format("true"),
        "select setval('ids', 41)",
        "update pg_collation set collversion = '0' where collname = 'german'",
        "update pg_proc set probin = '$libdir/gone' where proname = 'pg_stat_statements_reset'",
    )

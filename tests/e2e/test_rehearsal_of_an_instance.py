"""A rehearsal of a real instance works on a copy."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from logship.rehearsal.outcome import Proof
from logship.rehearsal.plan import Database, Kind, Plan, Side, Start, Step
from logship.rehearsal.plugin import Rehearsing
from logship.rehearsal.site.copied import copy_of
from tests.conftest import PrimaryFactory
from tests.e2e.test_road import COUNT, insert, prepare
from tests.support.installations import postgres_dir
from tests.support.pair import PATIENCE_SECONDS, Pair
from tests.support.rehearsed import check_protected, said
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SLOTS = "select slot_name from pg_replication_slots order by 1"
GENERATED_TABLES = 6
"""That hold rows, and the materialised view."""

# What else is checked of the copy is checked by the rehearsal.
DROP = """
do $$ begin assert (select count(*) from t) = {count}, 'rows of the instance'; end $$;
drop table t;
"""


def digests(directory: Path) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_what_is_kept_of_an_instance_is_rehearsed_and_stays_as_it_is(
    primary: PrimaryFactory, pair: Pair, tmp_path: Path
) -> None:
    server = primary(17, wal_segsize_mb=1)
    prepare(server)
    pair.add("main")
    with pair.applier.settings.open("a") as settings:
        settings.write("[seeds]\nkeep = 1\n")
    pair.applier.start()
    pair.shipper("main", server.dsn()).start()
    pair.wait_following("main")
    kept = pair.directory / "applier" / "seeds"
    wait_until(lambda: list(kept.glob("*/*/seeds/*/end")), PATIENCE_SECONDS, "a kept seed")
    insert(server, 4000)
    pair.wait_durable("main", server)
    ((count,),) = server.execute(COUNT)
    standby, seed, slots = pair.standby_pid("main"), digests(kept), server.execute(SLOTS)

    image = str(postgres_dir(17))
    plan = Plan(
        "a table less",
        Start(image, image),
        (Step(Kind.SQL, Side.PRIMARY, sql=DROP.format(count=count)),),
        Database(rows=10, instance="main", applier_settings=pair.applier.settings),
    )
    before, dropped = Rehearsing("local", tmp_path)(plan).steps
    check_protected(before)
    check_protected(dropped)
    for step, more in ((before, 1), (dropped, 0)):  # the table and the sequence of its id
        tables, sequences = GENERATED_TABLES + more, 1 + more
        expected = f"{tables} tables are equal, sequences go on ({sequences})"
        assert said(step, Proof.CONTENTS) == expected

    assert server.execute(COUNT) == [(count,)]
    assert server.execute(SLOTS) == slots
    assert digests(kept) == seed and seed
    assert pair.standby_pid("main") == standby
    assert pair.status("main")["alarms"] == []

    nobody = Database(instance="nobody", applier_settings=pair.applier.settings)
    with pytest.raises(LogshipError, match="nobody can't be copied") as unknown, copy_of(nobody):
        raise AssertionError("there is no such instance")
    assert unknown.value.code is Code.REHEARSAL_FAILED

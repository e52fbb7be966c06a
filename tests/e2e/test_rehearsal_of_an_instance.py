"""A rehearsal of a real instance works on a copy."""

from __future__ import annotations

import pytest

from logship.errors import Code, LogshipError
from logship.rehearsal.engine.local import LocalEngine
from logship.rehearsal.plan import Database
from logship.rehearsal.site.copied import copy_of
from logship.rehearsal.site.primary import Primary
from tests.conftest import PrimaryFactory
from tests.e2e.test_road import COUNT, insert, prepare
from tests.support.installations import postgres_dir
from tests.support.pair import PATIENCE_SECONDS, Pair
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_a_primary_of_what_is_kept_of_an_instance(primary: PrimaryFactory, pair: Pair) -> None:
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
    standby = pair.standby_pid("main")

    engine = LocalEngine()
    try:
        asked = Database(rows=10, instance="main", applier_settings=pair.applier.settings)
        copy = Primary(engine.machine("primary", str(postgres_dir(17))), "main", asked)
        with copy_of(asked) as data:
            assert data is not None
            copy.create(data)
        assert not data.exists()
        assert copy.sql(COUNT) == [[count]]
        copy.sql("drop table t")
    finally:
        engine.close()
    assert server.execute(COUNT) == [(count,)]
    assert pair.standby_pid("main") == standby
    nobody = Database(instance="nobody", applier_settings=pair.applier.settings)
    with pytest.raises(LogshipError, match="nobody can't be copied") as unknown, copy_of(nobody):
        raise AssertionError("there is no such instance")
    assert unknown.value.code is Code.REHEARSAL_FAILED

"""The primary of a rehearsal, on machines of this host: real servers, and its own programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from logship.rehearsal.engine.local import LocalEngine
from logship.rehearsal.plan import Database
from logship.rehearsal.site.primary import Primary, Written, longest_pause_seconds
from tests.support.installations import postgres_dir

pytestmark = pytest.mark.integration

DUMP = """
\\restrict abc
SET statement_timeout = 0;
CREATE TABLE public.orders (id integer PRIMARY KEY, note text);
COPY public.orders (id, note) FROM stdin;
1\tfirst
2\t\\N
\\.
CREATE INDEX orders_note ON public.orders (note);
\\unrestrict abc
"""


@contextmanager
def primary_of(image: str | Path, database: Database) -> Iterator[Primary]:
    engine = LocalEngine()
    try:
        yield Primary(engine.machine("primary", str(image)), "main", database)
    finally:
        engine.close()


def test_a_primary_and_its_copy(tmp_path: Path) -> None:
    dump = tmp_path / "schema.sql"
    dump.write_text(DUMP)
    asked = Database(rows=100, schema=dump, parameters={"max_connections": "23"})
    with primary_of(postgres_dir(17, 7), asked) as primary:
        primary.create()
        assert primary.sql("show max_connections") == [["23"]]
        assert primary.sql("select * from orders order by id", database="rehearsal_schema") == [
            [1, "first"],
            [2, None],
        ]
        whole = primary.digest()
        assert whole["rehearsal.public.people"].startswith("100 ")
        assert "rehearsal_schema.public.orders" in whole

        primary.start_writer()
        primary.set_parameters({"max_connections": "31", "work_mem": "5MB"})
        assert primary.sql("show max_connections") == [["31"]]
        before = primary.flush_lsn()
        primary.restart()
        written = primary.stop_writer()
        assert written.commits > 0
        assert 0 < written.longest_pause_seconds < 60
        assert primary.flush_lsn() > before
        acknowledged = primary.machine.read(primary.acknowledged_file).split()
        assert len(acknowledged) == written.commits
        missing = "select count(*) from rehearsal_writes where id in ({})"
        rows = primary.sql(missing.format(b",".join(acknowledged).decode()), database="rehearsal")
        assert rows == [[written.commits]]

        whole = primary.digest()
        primary.stop()
        copy = primary.fork("copy", image=str(postgres_dir(17)))
        primary.start()
        copy.start()
        assert copy.digest() == whole
        assert copy.sql("show server_version") != primary.sql("show server_version")
        copy.sql("delete from people where id = 7", database="rehearsal")
        other = copy.digest()
        assert [name for name in whole if whole[name] != other[name]] == ["rehearsal.public.people"]
        assert primary.digest() == whole

        with pytest.raises(LogshipError, match='relation "nothing" does not exist'):
            primary.sql("select * from nothing")
        with pytest.raises(LogshipError, match="nonsense"):
            copy.set_parameters({"shared_preload_libraries": "nonsense"})
        with pytest.raises(LogshipError) as missing_program:
            primary.enable_checksums(True)
        assert missing_program.value.code is Code.NO_INSTALLATION


def test_pauses_between_writers_count() -> None:
    one = Written(10, 0.5, 100.0, 110.0)
    none = Written(0, 2.0, None, None)
    assert longest_pause_seconds([]) == 0.0
    assert longest_pause_seconds([one, none]) == 2.0
    assert longest_pause_seconds([one, none, Written(3, 0.1, 117.5, 118.0)]) == 7.5

"""How a dump in plain SQL is cut into what can be sent at once."""

from __future__ import annotations

from logship.rehearsal.inside.load import Part, parts
from logship.rehearsal.site.cluster import parameters_text


def cut(text: str) -> list[Part]:
    return list(parts(text.splitlines(keepends=True)))


def test_statements_stay_together() -> None:
    text = "create function f() returns text as $$\nselect ';';\n$$ language sql;\nselect 1;\n"
    assert cut(text) == [Part(text)]
    assert cut("\n\n") == []


def test_data_of_a_copy_is_apart() -> None:
    assert cut("select 1;\nCOPY public.t (a) FROM stdin;\n1\n\\\\.\n\\.\n\nselect 2;\n") == [
        Part("select 1;\n"),
        Part("COPY public.t (a) FROM stdin;\n", data="1\n\\\\.\n"),
        Part("\nselect 2;\n"),
    ]
    assert cut("copy t from stdin with (format csv);\n\\.\n") == [
        Part("copy t from stdin with (format csv);\n", data="")
    ]


def test_a_dump_that_ends_within_a_copy() -> None:
    assert cut("COPY t FROM stdin;\n1\n") == [Part("COPY t FROM stdin;\n", data="1\n")]


def test_commands_of_psql_and_what_no_transaction_takes() -> None:
    dump = (
        "\\restrict x\nCREATE DATABASE a;\nselect 1;\n"
        "\\connect -reuse-previous=on \"dbname='My Db'\"\n\\connect b\n"
    )
    assert cut(dump) == [
        Part("CREATE DATABASE a;\n"),
        Part("select 1;\n"),
        Part("", connect="My Db"),
        Part("", connect="b"),
    ]


def test_what_postgresql_takes_only_alone_is_sent_alone() -> None:
    lines = (
        "create extension hstore;\n",
        "VACUUM (analyze) t;\n",
        "vacuum;\n",
        "drop database a;\n",
        "reindex (verbose) database b;\n",
        "create unique index concurrently i on t (a);\n",
        "drop index concurrently i;\n",
        "reindex table concurrently t;\n",
        "alter system set jit = off;\n",
        "create tablespace fast location '/fast';\n",
        "DROP TABLESPACE fast;\n",
        "create subscription s connection 'host=a;' publication p;\n",
        "drop subscription if exists s;\n",
        "alter subscription s refresh publication;\n",
        "alter database a set tablespace fast;\n",
        "alter table t detach partition p concurrently;\n",
        "commit prepared 'a';\n",
        "cluster;\n",
        "reindex (concurrently) table t;\n",
        "reindex schema public;\n",
        "  vacuum t;\n",
        "\tdrop database a; -- it is of no use\n",
        "create  database a ;  --\n",
    )
    assert cut("".join(lines)) == [Part(line) for line in lines]
    together = (
        "create index i on t (a);\ncreate table vacuums (a int);\nreindex table t;\n"
        "alter database a set work_mem = '1MB';\nalter table t detach partition p;\n"
        "-- vacuum t;\nselect 1 -- drop database a;\n;\n"
    )
    assert cut(together) == [Part(together)]


def test_what_is_quoted_by_dollars_is_not_cut() -> None:
    body = (
        "do $do$ begin\n  perform $$a;\n  vacuum;\n$$;\n  cluster t using i;\nend $do$;\n"
        "select $1$2, '$ $', $$one line$$;\n"
    )
    assert cut(f"{body}cluster t;\n") == [Part(body), Part("cluster t;\n")]
    # A comment's dollars are over at the next COPY.
    assert cut("-- $$\ncopy t from stdin;\n\\.\nvacuum;\n") == [
        Part("-- $$\n"),
        Part("copy t from stdin;\n", data=""),
        Part("vacuum;\n"),
    ]


def test_parameters_are_quoted() -> None:
    assert parameters_text({"a": "it's", "b": ""}) == "a = 'it''s'\nb = ''\n"

"""How libraries are named in settings and catalogs."""

from __future__ import annotations

import pytest

from logship.environment import library_list, library_name


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("pg_stat_statements", ("pg_stat_statements",)),
        ("pg_stat_statements, auto_explain", ("pg_stat_statements", "auto_explain")),
        ('"$libdir/timescaledb",pg_cron', ("$libdir/timescaledb", "pg_cron")),
        ('"a, b", "say ""c"""', ("a, b", 'say "c"')),
        (" , a,, ", ("a",)),
    ],
)
def test_a_setting_is_split_as_postgresql_does(text: str, names: tuple[str, ...]) -> None:
    assert library_list(text) == names


@pytest.mark.parametrize("path", ["hstore", "hstore.so", "$libdir/hstore", "/opt/pg/lib/hstore.so"])
def test_a_library_has_one_name(path: str) -> None:
    assert library_name(path) == "hstore"

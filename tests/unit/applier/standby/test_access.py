"""The standby's pg_hba.conf as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from applier.standby.access import LEFT_OUT, render_closed, render_opened

DATA = Path("/primary data")


def rules_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_a_standby_lets_only_its_superuser_in() -> None:
    assert rules_of(render_closed("postgres")) == [
        'local all "postgres" trust',
        "local all all reject",
        "local replication all reject",
        "host all all all reject",
        "host replication all all reject",
    ]


def test_a_role_named_like_a_keyword_is_that_role_only() -> None:
    assert rules_of(render_closed('al"l'))[0] == 'local all "al""l" trust'


def test_the_primarys_rules_follow_ours_once_promoted() -> None:
    text = render_opened("postgres", "# theirs\nhost all all 10.0.0.0/8 scram-sha-256\n", DATA)
    assert rules_of(text) == [
        'local all "postgres" trust',
        "host all all 10.0.0.0/8 scram-sha-256",
    ]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("include more.conf", 'include "/primary data/more.conf"'),
        ('include_dir "hba.d"', 'include_dir "/primary data/hba.d"'),
        ("include_if_exists /etc/x.conf", 'include_if_exists "/etc/x.conf"'),
        (
            "host @dbs a,@users all md5",
            'host @"/primary data/dbs" a,@"/primary data/users" all md5',
        ),
        ("host all a@b all md5", "host all a@b all md5"),
        ("# include more.conf @x", "# include more.conf @x"),
    ],
)
def test_files_that_rules_name_are_found_where_the_primarys_file_stood(
    line: str, wanted: str
) -> None:
    assert render_opened("postgres", line, DATA).splitlines()[-1] == wanted


def test_a_line_left_out_keeps_its_number() -> None:
    rules = "host all all all gss\nhost all all all md5"
    whole = render_opened("postgres", rules, DATA).splitlines()
    number = whole.index("host all all all gss") + 1
    text = render_opened("postgres", rules, DATA, {number}).splitlines()
    assert text[number - 1] == f"{LEFT_OUT}host all all all gss"
    assert len(text) == len(whole)
    assert text[number] == "host all all all md5"

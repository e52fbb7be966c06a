"""Settings: every problem of a file is found, placed and explained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from logship.errors import Code, ExitCode
from logship.settings import (
    MAX_SETTINGS_BYTES,
    LogSettings,
    SettingsError,
    load_settings,
    parse_settings,
)
from logship.settings_schema import Contradiction, Section
from logship.settings_text import render_commented, render_markdown, toml_value

FILE = Path("/etc/logship/example.toml")


def _not_thirteen(key: str, value: int) -> Iterator[tuple[str, str]]:
    if value == 13:
        yield f"{key} is unlucky", "take another"


class Inner(Section, frozen=True, kw_only=True):
    """A table in a table."""

    path: Annotated[Path, Meta(description="A file.", examples=["/x"])]
    rate: Annotated[float, Meta(description="A rate.", gt=0, le=10)] = 1.0
    number: Annotated[
        int, Meta(description="A number.", ge=1, le=20, extra={"check": _not_thirteen})
    ] = 7
    optional: Annotated[Path | None, Meta(description="Another file.")] = None

    def contradictions(self) -> Iterator[Contradiction]:
        if self.number == 20 and self.rate == 10:
            yield Contradiction(("rate",), "20 and 10 do not go together", "lower one")


class Outer(Section, frozen=True, kw_only=True):
    """The top."""

    mode: Annotated[Literal["fast", "slow"], Meta(description="How.")] = "fast"
    names: Annotated[list[str], Meta(description="Names.")] = msgspec.field(default_factory=list)
    free: Annotated[dict[str, int | str], Meta(description="Free | easy.")] = msgspec.field(
        default_factory=dict
    )
    files: Annotated[list[Path], Meta(description="Files.")] = msgspec.field(default_factory=list)
    inner: Inner
    many: Annotated[dict[str, Inner], Meta(description="Named.", examples=["one"])] = msgspec.field(
        default_factory=dict
    )


def found(text: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, Outer, file=FILE)
    return caught.value


def only(text: str) -> tuple[int, str, str, str]:
    error = found(text)
    assert len(error.findings) == 1, error.what
    return error.findings[0]


def test_a_minimal_file_gets_the_defaults() -> None:
    settings = parse_settings('[inner]\npath = "/a"\n', Outer, file=FILE)
    assert settings == Outer(inner=Inner(path=Path("/a")))


def test_relative_paths_are_taken_from_the_files_directory(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[inner]\npath = "keys/a"\noptional = "../b"\n')
    inner = load_settings(file, Outer).inner
    assert inner.path == tmp_path / "keys/a"
    assert inner.optional == tmp_path / ".." / "b"


def test_a_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = parse_settings('inner.path = "~/a"', Outer, file=FILE)
    assert settings.inner.path == Path("/home/somebody/a")


def test_all_problems_are_found_at_once_in_the_files_order() -> None:
    error = found(
        'mod = "fast"\n'
        "names = 3\n"
        "[inner]\n"
        "rate = 0\n"
        "number = 13\n"
        "surprise = true\n"
        "[many.two]\n"
        'path = "/b"\n'
        "number = 21\n"
    )
    assert error.code is Code.SETTINGS
    assert error.exit_code is ExitCode.USAGE
    assert [(each.line, each.key) for each in error.findings] == [
        (1, "mod"),
        (2, "names"),
        (3, "inner.path"),
        (4, "inner.rate"),
        (5, "inner.number"),
        (6, "inner.surprise"),
        (9, "many.two.number"),
    ]
    assert error.what.startswith(f"{FILE} has 7 problems\n  {FILE}:1: mod is not a setting")
    assert len(error.as_dict()["findings"]) == 7  # type: ignore[arg-type]


def test_a_mistyped_key_is_answered_with_the_nearest_one() -> None:
    line, key, what, hint = only('[inner]\npath = "/a"\nnumbr = 3\n')
    assert (line, key) == (3, "inner.numbr")
    assert what == "inner.numbr is not a setting"
    assert hint == "did you mean 'number'?"


def test_a_key_like_no_other_is_answered_with_what_there_is() -> None:
    _, _, _, hint = only('zzz = 1\n[inner]\npath = "/a"\n')
    assert hint == "the top level takes files, free, inner, many, mode, names"


def test_a_mistyped_word_is_answered_with_the_nearest_one() -> None:
    _, _, what, hint = only('mode = "fasst"\n[inner]\npath = "/a"\n')
    assert what == 'mode must be one of "fast", "slow", not \'fasst\''
    assert hint == "did you mean 'fast'?"


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("rate = 0", "inner.rate must be a number above 0 up to 10, not 0"),
        ("rate = nan", "inner.rate must be a number above 0 up to 10, not nan"),
        ("rate = inf", "inner.rate must be a number above 0 up to 10, not inf"),
        ('number = "7"', "inner.number must be a whole number from 1 to 20, not text"),
        ("number = true", "inner.number must be a whole number from 1 to 20, not true or false"),
        ("number = 1.5", "inner.number must be a whole number from 1 to 20, not 1.5"),
        ("number = 13", "inner.number is unlucky"),
        ("number = 2020-01-01", "inner.number must be a whole number from 1 to 20, not a date"),
        ('optional = ""', "inner.optional must be a path, not empty text"),
        ("optional = []", "inner.optional must be a path, not a list"),
        ('optional = "a\\u0000b"', "inner.optional must be a path, not text with a zero byte"),
        ('optional = "~nobody-at-all/x"', "inner.optional must be a path, not a home directory"),
    ],
)
def test_a_wrong_value_is_explained(setting: str, what: str) -> None:
    finding = only(f'[inner]\npath = "/a"\n{setting}\n')
    assert finding[0] == 3
    assert finding[2].startswith(what)


def test_a_missing_key_is_placed_at_its_table_with_an_example() -> None:
    assert only("\n[inner]\nrate = 2\n") == (
        2,
        "inner.path",
        "inner.path is missing and has no default",
        "it must be a path, for example '/x'",
    )


def test_a_missing_table_is_reported_by_the_keys_it_needs() -> None:
    line, key, _, _ = only("")
    assert (line, key) == (0, "inner.path")


@pytest.mark.parametrize("text", ["inner = 3", "inner = [1]", 'inner = "x"'])
def test_a_table_must_be_a_table(text: str) -> None:
    assert only(text)[2].startswith("inner must be a table, not ")


def test_a_value_in_a_free_table_is_placed_exactly() -> None:
    line, key, what, _ = only('[inner]\npath = "/a"\n[free]\na = 1\nb = [1]\n')
    assert (line, key) == (5, "free.b")
    assert what == "free.b must be a whole number or text, not a list"


def test_a_list_with_a_wrong_item_is_refused() -> None:
    what = only('files = ["a", ""]\n[inner]\npath = "/a"\n')[2]
    assert what == "files must be a list, each a path, and one of them is not"


def test_paths_in_a_list_are_taken_from_the_files_directory() -> None:
    settings = parse_settings('files = ["a", "/b"]\n[inner]\npath = "/a"\n', Outer, file=FILE)
    assert settings.files == [Path("/etc/logship/a"), Path("/b")]


def test_contradictions_are_found_in_named_tables_too() -> None:
    line, key, what, _ = only(
        '[inner]\npath = "/a"\n[many.x]\npath = "/b"\nnumber = 20\nrate = 10\n'
    )
    assert (line, key, what) == (6, "many.x.rate", "20 and 10 do not go together")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('inner . "path" = 3\n', 1),
        ('# [inner]\n\n[ inner ]\n  "path"=3\n', 4),
        ("[inner]\n'path' = 3 # comment\n", 2),
        ('names = ["""\npath = 1\n""", "x"]\n[inner]\npath = 3\n', 5),
        ("mode = '''fast'''\n[inner]\npath = 3", 3),
        ("inner = { path = 3 }", 1),
        ("[inner]\r\npath = 3\r\n", 2),
    ],
)
def test_the_line_of_a_key_is_found_however_it_is_written(text: str, line: int) -> None:
    error = found(text)
    assert [each.line for each in error.findings if each.key == "inner.path"] == [line]


def test_broken_toml_is_placed() -> None:
    line, _, what, _ = only('mode = "fast"\n[inner\n')
    assert line == 2
    assert what.startswith("this is not TOML: ")


def test_a_key_given_twice_is_refused() -> None:
    line, _, _, hint = only('mode = "fast"\nmode = "slow"\n')
    assert line == 2
    assert "once" in hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file") as caught:
        load_settings(tmp_path / "none.toml", Outer)
    assert str(tmp_path / "none.toml") in caught.value.what
    assert "init" in caught.value.hint


def test_a_directory_is_not_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="directory"):
        load_settings(tmp_path, Outer)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(b"\n\nmode = '\xff'\n")
    with pytest.raises(SettingsError, match="UTF-8") as caught:
        load_settings(file, Outer)
    assert caught.value.findings[0].line == 3


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    with file.open("wb") as out:
        out.truncate(MAX_SETTINGS_BYTES + 1)
    with pytest.raises(SettingsError, match="larger"):
        load_settings(file, Outer)


def test_settings_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        LogSettings().level = "debug"  # type: ignore[misc]


def test_the_commented_file_reads_back_as_the_defaults_and_the_examples() -> None:
    text = render_commented(Outer, "Title.")
    assert parse_settings(text, Outer, file=FILE) == Outer(inner=Inner(path=Path("/x")))


def test_a_named_table_that_nobody_named_stands_as_an_example_in_comments() -> None:
    text = render_commented(Outer, "Title.")
    before, example = text.split("#[many.one]\n")
    uncommented = f"{before}[many.one]\n{example.replace('#path', 'path')}"
    settings = parse_settings(uncommented, Outer, file=FILE)
    assert settings.many == {"one": Inner(path=Path("/x"))}


def test_values_given_for_the_commented_file_stand_in_it() -> None:
    text = render_commented(Outer, "Title.", {"mode": "slow", "many.two.path": 'a "b" \\ ü'})
    settings = parse_settings(text, Outer, file=Path("/etc/x.toml"))
    assert settings.mode == "slow"
    assert settings.many == {"two": Inner(path=Path('/etc/a "b" \\ ü'))}


def test_uncommented_defaults_read_back_as_the_same() -> None:
    text = render_commented(Outer, "Title.", {"many.one.path": "/x"})
    lines = [line.removeprefix("#") if line[1:2].isalpha() else line for line in text.splitlines()]
    uncommented = "\n".join(line for line in lines if not line.endswith(" ="))
    assert parse_settings(uncommented, Outer, file=FILE) == parse_settings(text, Outer, file=FILE)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (3, "3"),
        (2.5, "2.5"),
        ("a\x7f\n", '"a\\u007f\\n"'),
        (["a", 1], '["a", 1]'),
        ({"a b": 1, "c": []}, '{ "a b" = 1, c = [] }'),
        ({}, "{}"),
    ],
)
def test_values_are_written_as_toml(value: object, text: str) -> None:
    assert toml_value(value) == text


def test_the_tables_for_the_docs_escape_what_markdown_would_take() -> None:
    assert "| `free` | a table | `{}` | Free \\| easy. |" in render_markdown(Outer)

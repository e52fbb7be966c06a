"""From a seed's files to a standby's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from applier.standby.layout import StandbyLayout
from applier.standby.placement import (
    make_socket_directory,
    prepare,
    primary_file,
    write_ours,
)
from logship import durable
from logship.errors import Code, LogshipError
from logship.postgres.run_as import RunAs


@pytest.fixture
def run_as() -> RunAs:
    """Ourselves, root or not: no server is started here."""
    return RunAs("tests", os.geteuid(), os.getegid(), (), changes=False)


@pytest.fixture
def seed(tmp_path: Path) -> StandbyLayout:
    layout = StandbyLayout(tmp_path / "7-17", tmp_path / "socket")
    layout.data.mkdir(parents=True)
    for name, content in {
        "backup_label": "START WAL LOCATION",
        "postgresql.conf": "port = 5432\ninclude_dir 'conf.d'\n#include 'no'\n",
        "postgresql.auto.conf": "archive_mode = on\n",
        "pg_hba.conf": "host all all all md5\n",
        "recovery.signal": "",
    }.items():
        (layout.data / name).write_text(content)
    return layout


def test_the_primarys_settings_are_kept_and_none_of_them_is_in_force(
    seed: StandbyLayout, run_as: RunAs
) -> None:
    placement = prepare(seed, run_as)
    assert placement.kept == ("postgresql.conf", "pg_hba.conf", "postgresql.auto.conf")
    assert placement.missing == ("pg_ident.conf",)
    assert placement.includes == ("conf.d",)
    assert not (seed.data / "postgresql.auto.conf").exists()
    assert (seed.data / "postgresql.conf").exists()
    assert primary_file(seed, "postgresql.auto.conf") == "archive_mode = on\n"
    assert seed.signal_file.exists()
    assert not (seed.data / "recovery.signal").exists()


def test_it_may_be_called_again(seed: StandbyLayout, run_as: RunAs) -> None:
    first = prepare(seed, run_as)
    assert prepare(seed, run_as) == first


class PowerCutError(Exception):
    """The machine stops here."""


@pytest.mark.parametrize("survived", range(8))
def test_a_crash_between_any_two_steps_loses_nothing(
    seed: StandbyLayout, run_as: RunAs, survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object) -> object:
            nonlocal steps
            steps += 1
            if steps > survived:
                raise PowerCutError
            return real(*args)

        return step

    with monkeypatch.context() as patched:
        for name in ("write_file", "remove", "make_directory"):
            patched.setattr(durable, name, dying(getattr(durable, name)))
        with pytest.raises(PowerCutError):
            prepare(seed, run_as)
    assert "postgresql.auto.conf" in prepare(seed, run_as).kept
    assert primary_file(seed, "postgresql.auto.conf") == "archive_mode = on\n"


def test_a_server_that_was_opened_never_becomes_a_standby_by_mistake(
    seed: StandbyLayout, run_as: RunAs
) -> None:
    (seed.data / "backup_label").unlink()
    with pytest.raises(LogshipError) as caught:
        prepare(seed, run_as)
    assert caught.value.code is Code.STANDBY_FAILED
    assert not seed.signal_file.exists()


def test_settings_that_an_earlier_seed_brought_do_not_stay(
    seed: StandbyLayout, run_as: RunAs
) -> None:
    prepare(seed, run_as)
    (seed.data / "postgresql.conf").unlink()
    assert "postgresql.conf" in prepare(seed, run_as).missing


def test_client_rules_that_an_operator_put_there_survive_a_seed_without_any(
    seed: StandbyLayout, run_as: RunAs
) -> None:
    prepare(seed, run_as)
    (seed.data / "pg_hba.conf").unlink()
    (seed.primary_settings / "pg_hba.conf").write_text("local all all peer\n")
    assert "pg_hba.conf" in prepare(seed, run_as).kept
    assert primary_file(seed, "pg_hba.conf") == "local all all peer\n"


def test_a_link_in_the_seed_is_not_followed(
    seed: StandbyLayout, run_as: RunAs, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (seed.data / "pg_ident.conf").symlink_to(secret)
    assert "pg_ident.conf" in prepare(seed, run_as).missing


def test_the_socket_directory_is_made_private(tmp_path: Path, run_as: RunAs) -> None:
    make_socket_directory(tmp_path / "socket", run_as)
    make_socket_directory(tmp_path / "socket", run_as)
    assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o700


def test_a_socket_directory_that_others_can_enter_is_refused(tmp_path: Path, run_as: RunAs) -> None:
    directory = tmp_path / "socket"
    directory.mkdir()
    directory.chmod(0o711)
    link = tmp_path / "link"
    directory_behind = tmp_path / "behind"
    directory_behind.mkdir(0o700)
    link.symlink_to(directory_behind)
    stranger = RunAs("stranger", run_as.uid + 1, run_as.gid, (), changes=False)
    for path, account in ((directory, run_as), (link, run_as), (directory_behind, stranger)):
        with pytest.raises(LogshipError, match="private"):
            make_socket_directory(path, account)


def test_an_unchanged_file_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "postgresql.conf"
    assert write_ours(path, "a")
    assert not write_ours(path, "a")
    assert write_ours(path, "b")

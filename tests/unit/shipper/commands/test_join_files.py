from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from logship.link.keys import generate, load_pair, load_public
from shipper.commands.join_files import JoinFiles
from tests.support.fake_intake import new_keys

APPLIER = new_keys().public


@pytest.fixture
def files(tmp_path: Path) -> JoinFiles:
    return JoinFiles.beside(tmp_path / "made" / "shipper-main.toml", "main")


def refusal(files: JoinFiles) -> LogshipError:
    with pytest.raises(LogshipError) as caught, files.held():
        raise AssertionError("it was let in")
    assert caught.value.code is Code.SETTINGS
    assert caught.value.hint
    return caught.value


def test_a_join_leaves_keys_and_settings_and_nothing_else(files: JoinFiles) -> None:
    with files.held():
        pair = files.keys()
        files.finish(APPLIER, "instance = 'main'\n")
    assert load_pair(files.secret_key) == pair
    assert load_public(files.public_key) == pair.public
    assert load_public(files.applier_key) == APPLIER
    assert files.settings.read_text() == "instance = 'main'\n"
    assert files.settings.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in files.settings.parent.iterdir()} == {
        "main.key",
        "main.pub",
        "main.applier.pub",
        "shipper-main.toml",
    }


def test_a_join_that_broke_off_goes_on_with_its_keys(files: JoinFiles) -> None:
    with pytest.raises(RuntimeError, match="cut"), files.held():
        pair = files.keys()
        raise RuntimeError("cut")
    files.public_key.unlink()  # a crash may have come before it was written
    with files.held():
        assert files.keys() == pair
        files.finish(APPLIER, "")
    assert load_public(files.public_key) == pair.public


@pytest.mark.parametrize("name", ["settings", "secret_key", "public_key", "applier_key"])
@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_what_is_there_is_not_touched(files: JoinFiles, name: str, kind: str) -> None:
    path: Path = getattr(files, name)
    path.parent.mkdir()
    if kind == "file":
        path.write_text("of somebody")
    else:
        path.symlink_to("nowhere")
    assert str(path) in refusal(files).what
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert kind != "file" or path.read_text() == "of somebody"


def test_a_crash_after_the_settings_is_told_from_somebody_s_settings(files: JoinFiles) -> None:
    files.settings.parent.mkdir()
    files.settings.write_text("done")
    files.marker.touch()
    assert str(files.marker) in refusal(files).hint
    assert files.settings.read_text() == "done"


def test_two_at_once_do_not_mix_their_keys(files: JoinFiles) -> None:
    with files.held():
        assert "another join" in refusal(files).what
        files.keys()
        files.finish(APPLIER, "")


def test_another_instance_in_the_same_directory_is_no_trouble(files: JoinFiles) -> None:
    generate(files.settings.parent, "other")
    with files.held():
        files.keys()
        files.finish(APPLIER, "")


def test_a_directory_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files = JoinFiles.beside(tmp_path / "file" / "shipper.toml", "main")
    assert str(tmp_path / "file") in refusal(files).what


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes where others own")
def test_root_makes_no_keys_that_the_shipper_could_not_read(files: JoinFiles) -> None:
    nobody = pwd.getpwnam("nobody")
    files.settings.parent.mkdir()
    os.chown(files.settings.parent, nobody.pw_uid, nobody.pw_gid)
    assert "sudo -u nobody" in refusal(files).hint
    assert list(files.settings.parent.iterdir()) == []

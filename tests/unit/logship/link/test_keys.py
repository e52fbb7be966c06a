from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from logship.errors import Code, LogshipError
from logship.link.keys import generate, load_pair, load_public


def code_of(call: object, *arguments: object) -> Code:
    assert callable(call)
    with pytest.raises(LogshipError) as caught:
        call(*arguments)
    return caught.value.code


def test_a_pair_is_written_for_its_owner_only_and_loads_again(tmp_path: Path) -> None:
    made = generate(tmp_path / "keys", "shipper")
    secret, public = tmp_path / "keys/shipper.key", tmp_path / "keys/shipper.pub"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert load_pair(secret) == made
    assert load_public(public) == load_public(str(public)) == made.public


def test_a_public_key_may_be_given_as_text(tmp_path: Path) -> None:
    public = generate(tmp_path, "a").public
    assert load_public(public) == public


def test_a_public_key_is_never_taken_for_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [(b"-" + b"a" * 39, b"s" * 40), (b"a-" + b"a" * 38, b"t" * 40)]
    monkeypatch.setattr(zmq, "curve_keypair", lambda: made.pop(0))
    assert generate(tmp_path, "a") == ("a-" + "a" * 38, "t" * 40)


def test_the_secret_half_is_not_shown(tmp_path: Path) -> None:
    pair = generate(tmp_path, "a")
    assert pair.secret not in repr(pair)


@pytest.mark.parametrize("existing", ["a.key", "a.pub"])
def test_nothing_is_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("precious")
    assert code_of(generate, tmp_path, "a") is Code.SETTINGS
    assert (tmp_path / existing).read_text() == "precious"


def test_a_directory_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert code_of(generate, tmp_path / "file" / "sub", "a") is Code.SETTINGS


def test_a_missing_file_is_key_missing(tmp_path: Path) -> None:
    assert code_of(load_pair, tmp_path / "no.key") is Code.KEY_MISSING
    assert code_of(load_public, tmp_path / "no.pub") is Code.KEY_MISSING


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    generate(tmp_path, "a")
    (tmp_path / "a.key").chmod(0o640)
    with pytest.raises(LogshipError, match="0640") as caught:
        load_pair(tmp_path / "a.key")
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("content", ["", "short", "x" * 41, "x" * 9000, "\xff" * 40])
def test_a_malformed_file_is_a_settings_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.key"
    path.write_text(content)
    path.chmod(0o600)
    assert code_of(load_pair, path) is Code.SETTINGS
    path.rename(tmp_path / "a.pub")
    assert code_of(load_public, tmp_path / "a.pub") is Code.SETTINGS


def test_a_directory_is_no_key(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert code_of(load_pair, tmp_path) is Code.SETTINGS


def test_halves_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    generate(tmp_path, "a")
    other = generate(tmp_path, "b")
    (tmp_path / "a.pub").write_text(other.public)
    assert code_of(load_pair, tmp_path / "a.key") is Code.SETTINGS


def test_a_secret_key_in_a_public_keys_place_is_refused(tmp_path: Path) -> None:
    generate(tmp_path, "a")
    assert code_of(load_public, tmp_path / "a.key") is Code.SETTINGS

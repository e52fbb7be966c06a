from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError, UsageError
from logship.objects.encryption import Identities, Recipients, generate_identity, is_sealed

WHERE = "s3://archive/main/wal/1"


def new_file(path: Path) -> tuple[str, Path]:
    """A recipient and the file of its identity."""
    pair = generate_identity()
    path.write_text(pair.file_text)
    path.chmod(0o600)
    return pair.recipient, path


def failure(identities: Identities, body: bytes) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        identities.open(body, WHERE)
    with pytest.raises(LogshipError) as proving:
        identities.prove(body, WHERE)
    assert proving.value.what == caught.value.what
    assert WHERE in caught.value.what
    return caught.value


@pytest.mark.parametrize("body", [b"", b"WAL", bytes(1 << 20)])
def test_opens_what_it_sealed(tmp_path: Path, body: bytes) -> None:
    recipient, file = new_file(tmp_path / "a")
    sealed = Recipients([recipient]).seal(body)
    assert is_sealed(sealed)
    assert not is_sealed(body)
    identities = Identities([file])
    assert identities.recipients == [recipient]
    assert identities.open(sealed, WHERE) == body
    identities.prove(sealed, WHERE)


def test_without_recipients_nothing_is_sealed(tmp_path: Path) -> None:
    recipients = Recipients([])
    assert not recipients
    assert recipients.seal(b"WAL") == b"WAL"
    assert Identities([]).open(b"WAL", WHERE) == b"WAL"
    assert Identities([new_file(tmp_path / "a")[1]]).open(b"WAL", WHERE) == b"WAL"


def test_keys_are_rotated_with_both_in_use_for_a_while(tmp_path: Path) -> None:
    old, old_file = new_file(tmp_path / "old")
    new, new_file_ = new_file(tmp_path / "new")
    before, between, after = (Recipients(each).seal(b"WAL") for each in ([old], [old, new], [new]))
    for sealed in (before, between, after):
        assert Identities([old_file, new_file_]).open(sealed, WHERE) == b"WAL"
    assert Identities([new_file_]).open(between, WHERE) == b"WAL"
    assert failure(Identities([new_file_]), before).code is Code.IDENTITY_MISSING
    assert failure(Identities([old_file]), after).code is Code.IDENTITY_MISSING


def test_one_file_may_hold_several_identities(tmp_path: Path) -> None:
    first, second = generate_identity(), generate_identity()
    file = tmp_path / "both"
    file.write_text(f"{first.file_text}\n# the next\n{second.file_text}")
    file.chmod(0o600)
    identities = Identities([file])
    assert identities.recipients == [first.recipient, second.recipient]
    assert identities.open(Recipients([second.recipient]).seal(b"WAL"), WHERE) == b"WAL"


def test_the_wrong_identity_is_named_with_what_it_opens(tmp_path: Path) -> None:
    other, file = new_file(tmp_path / "other")
    error = failure(Identities([file]), Recipients([generate_identity().recipient]).seal(b"WAL"))
    assert error.code is Code.IDENTITY_MISSING
    assert str(file) in error.what
    assert other in error.hint


def test_no_identity_at_all_is_named() -> None:
    error = failure(Identities([]), Recipients([generate_identity().recipient]).seal(b"WAL"))
    assert error.code is Code.IDENTITY_MISSING
    assert "bucket.identity_files" in error.hint


def test_a_changed_or_cut_body_is_damaged(tmp_path: Path) -> None:
    recipient, file = new_file(tmp_path / "a")
    sealed = Recipients([recipient]).seal(bytes(200_000))
    identities = Identities([file])
    middle = len(sealed) // 2
    changed = sealed[:middle] + bytes([sealed[middle] ^ 1]) + sealed[middle + 1 :]
    for body in (changed, sealed[:-1], sealed[:middle], sealed[:40], sealed + b"x"):
        assert failure(identities, body).code is Code.OBJECT_DAMAGED


def test_what_must_be_sealed_is_taken_no_other_way(tmp_path: Path) -> None:
    recipient, file = new_file(tmp_path / "a")
    identities = Identities([file], sealed_only=True)
    assert identities.open(Recipients([recipient]).seal(b"WAL"), WHERE) == b"WAL"
    assert failure(identities, b"WAL").code is Code.OBJECT_DAMAGED


def test_threads_share_both(tmp_path: Path) -> None:
    recipient, file = new_file(tmp_path / "a")
    recipients, identities = Recipients([recipient]), Identities([file])

    def round_trip(number: int) -> bool:
        body = b"%d" % number * 1000
        return identities.open(recipients.seal(body), WHERE) == body

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(round_trip, range(100)))


def test_a_wrong_recipient_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Recipients(["age1nobody"])
    assert caught.value.code is Code.SETTINGS


def test_the_secret_is_not_shown() -> None:
    pair = generate_identity()
    assert "AGE-SECRET-KEY-1" in pair.file_text
    assert "AGE-SECRET-KEY" not in repr(pair)


# --- files that can't be used -------------------------------------------------------------------


def unusable(file: Path) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        Identities([file])
    assert str(file) in caught.value.what
    return caught.value


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert unusable(tmp_path / "none").code is Code.IDENTITY_MISSING


@pytest.mark.parametrize("text", ["", "\n", "# public key: age1...\n"])
def test_a_file_without_an_identity_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a"
    file.write_text(text)
    file.chmod(0o600)
    assert unusable(file).code is Code.IDENTITY_MISSING


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    _, file = new_file(tmp_path / "a")
    file.chmod(0o640)
    error = unusable(file)
    assert error.code is Code.SETTINGS
    assert "0640" in error.what
    assert error.hint == f"run: chmod 600 {file}"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert unusable(tmp_path).code is Code.SETTINGS


def test_a_line_that_is_no_identity_is_refused_and_not_repeated(tmp_path: Path) -> None:
    pair = generate_identity()
    broken = pair.file_text.splitlines()[-1][:-1]
    file = tmp_path / "a"
    file.write_text(f"{pair.file_text}{broken}\n")
    file.chmod(0o600)
    error = unusable(file)
    assert error.code is Code.SETTINGS
    assert broken not in str(error)


@pytest.mark.parametrize(
    "head", [b"age-encryption.org/v1\n-> scrypt x 18\n", b"-----BEGIN AGE ENCRYPTED FILE-----\n"]
)
def test_a_file_behind_a_passphrase_is_named(tmp_path: Path, head: bytes) -> None:
    file = tmp_path / "a"
    file.write_bytes(head)
    file.chmod(0o600)
    assert "passphrase" in unusable(file).what

"""`applier check` and the bucket: what is said of each instance, with real objects."""

from __future__ import annotations

from pathlib import Path

from applier.commands.check_bucket import check_bucket
from applier.settings import ApplierSettings
from logship.objects.directory import DirectoryStore
from logship.objects.encryption import Recipients, generate_identity
from logship.settings import parse_settings
from tests.support.bucket_writer import BucketWriter
from tests.support.link_frames import SEGMENT_BYTES, profile


def settings(directory: Path, *identities: Path) -> ApplierSettings:
    files = ", ".join(f'"{each}"' for each in identities)
    return parse_settings(
        f"""
[bucket]
url = "file://{directory}"
identity_files = [{files}]
[instances.orders]
port = 5433
[instances.billing]
port = 5434
""",
        ApplierSettings,
        file=Path("applier.toml"),
    )


def identity(file: Path) -> str:
    """Written to `file`; returns its recipient."""
    pair = generate_identity()
    file.write_text(pair.file_text)
    file.chmod(0o600)
    return pair.recipient


def levels(given: ApplierSettings) -> dict[str, tuple[str, str]]:
    return {each.name: (each.level, each.what) for each in check_bucket(given)}


def ship(directory: Path, *recipients: str) -> None:
    writer = BucketWriter(
        DirectoryStore(directory), "orders", profile(), Recipients(list(recipients))
    )
    writer.write_many(1, SEGMENT_BYTES, SEGMENT_BYTES + 1000, 500)


def test_what_can_be_opened_and_what_is_not_there_yet_is_said(tmp_path: Path) -> None:
    recipient = identity(tmp_path / "ours")
    ship(tmp_path / "bucket", recipient)
    found = levels(settings(tmp_path / "bucket", tmp_path / "ours"))
    assert found["identities"] == ("ok", recipient)
    assert found["bucket"][0] == "ok"
    level, what = found["bucket:orders"]
    assert level == "warn" and "can be opened" in what and "no complete seed" in what
    level, what = found["bucket:billing"]
    assert level == "warn" and "nothing of billing" in what


def test_a_missing_and_a_wrong_identity_fail(tmp_path: Path) -> None:
    ship(tmp_path / "bucket", identity(tmp_path / "theirs"))
    identity(tmp_path / "ours")
    wrong = levels(settings(tmp_path / "bucket", tmp_path / "ours"))
    assert wrong["bucket:orders"][0] == "fail" and "encrypted" in wrong["bucket:orders"][1]
    none = levels(settings(tmp_path / "bucket"))
    assert none["bucket:orders"][0] == "fail"
    missing = levels(settings(tmp_path / "bucket", tmp_path / "nowhere"))
    assert missing["identities"][0] == "fail" and "nowhere" in missing["identities"][1]


def test_without_a_bucket_there_is_nothing_to_say() -> None:
    given = parse_settings(
        "[instances.a]\nport = 1\npublic_key_file = 'a.pub'\n",
        ApplierSettings,
        file=Path("applier.toml"),
    )
    assert list(check_bucket(given)) == []

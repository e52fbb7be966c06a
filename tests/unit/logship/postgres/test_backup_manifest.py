"""The manifest is believed only with its checksum, and every difference is named."""

from __future__ import annotations

import hashlib
import json

import crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logship.errors import Code, LogshipError
from logship.postgres.backup_manifest import (
    ArrivedFile,
    check_identity,
    compare,
    parse_manifest,
)
from tests.unit.applier.receivers.seed.archives import (
    END_LSN,
    START_LSN,
    SYSTEM_IDENTIFIER,
    manifest,
    signed,
)

FILES = {"PG_VERSION": b"17\n", "base/1/1259": b"x" * 8192, "pg_tblspc/9/P/ü": b""}


def arrived(files: dict[str, bytes]) -> dict[bytes, ArrivedFile]:
    return {
        path.encode(): ArrivedFile(len(content), crc32c.crc32c(content))
        for path, content in files.items()
    }


def no_digest(path: bytes, algorithm: str) -> bytes:
    raise AssertionError("nothing has to be read again")


def mismatch(content: bytes, files: dict[str, bytes]) -> str:
    with pytest.raises(LogshipError) as caught:
        compare(parse_manifest(content), arrived(files), no_digest)
    assert caught.value.code is Code.SEED_MANIFEST_MISMATCH
    return caught.value.what


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("encode_paths", [False, True])
def test_reads_both_versions_and_encoded_paths(version: int, encode_paths: bool) -> None:
    parsed = parse_manifest(manifest(FILES, version=version, encode_paths=encode_paths))
    assert parsed.version == version
    assert parsed.system_identifier == (SYSTEM_IDENTIFIER if version == 2 else None)
    assert set(parsed.files) == {path.encode() for path in FILES}
    compare(parsed, arrived(FILES), no_digest)


@pytest.mark.parametrize("algorithm", ["SHA224", "SHA256", "SHA384", "SHA512"])
def test_reads_files_again_for_sha_checksums(algorithm: str) -> None:
    parsed = parse_manifest(manifest(FILES, algorithm=algorithm))

    def digest(path: bytes, name: str) -> bytes:
        return hashlib.new(name, FILES[path.decode()]).digest()

    compare(parsed, arrived(FILES), digest)
    with pytest.raises(LogshipError, match="PG_VERSION does not match its checksum"):
        compare(parsed, arrived(FILES), lambda path, name: digest(b"base/1/1259", name))


def test_checks_names_and_sizes_alone_where_there_are_no_checksums() -> None:
    parsed = parse_manifest(manifest(FILES, algorithm="NONE"))
    compare(parsed, arrived(FILES), no_digest)
    with pytest.raises(LogshipError, match="PG_VERSION has 2 bytes instead of 3"):
        compare(parsed, arrived({**FILES, "PG_VERSION": b"17"}), no_digest)


def test_names_what_is_missing_unlisted_and_changed() -> None:
    content = manifest(FILES)
    assert "base/1/1259 is missing" in mismatch(
        content, {k: v for k, v in FILES.items() if k != "base/1/1259"}
    )
    assert "evil.so is not listed" in mismatch(content, {**FILES, "evil.so": b""})
    assert "PG_VERSION does not match its checksum" in mismatch(
        content, {**FILES, "PG_VERSION": b"18\n"}
    )


def test_names_a_few_of_many_and_counts_the_rest() -> None:
    what = mismatch(manifest(FILES), {**FILES, **{f"x{n}": b"" for n in range(12)}})
    assert "x4 is not listed" in what and "x5" not in what and "and 7 more" in what


def test_exempts_what_pg_verifybackup_exempts() -> None:
    exempt = ["standby.signal", "recovery.signal", "backup_manifest", "pg_wal/0000"]
    compare(
        parse_manifest(manifest(FILES)), arrived({**FILES, **dict.fromkeys(exempt, b"")}), no_digest
    )
    listed = {**FILES, "postgresql.auto.conf": b"a"}
    compare(parse_manifest(manifest(listed)), arrived(FILES), no_digest)
    assert "postgresql.auto.conf" in mismatch(
        manifest(listed), {**FILES, "postgresql.auto.conf": b"b"}
    )


@given(st.integers(0, len(manifest(FILES)) - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(position: int, mask: int) -> None:
    content = bytearray(manifest(FILES))
    content[position] ^= mask
    with pytest.raises(LogshipError) as caught:
        parse_manifest(bytes(content))
    assert caught.value.code is Code.SEED_MANIFEST_MISMATCH


@given(st.integers(0, len(manifest(FILES)) - 1))
def test_a_cut_manifest_is_refused(length: int) -> None:
    with pytest.raises(LogshipError):
        parse_manifest(manifest(FILES)[:length])


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.just("0/1"),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["Files", "Path", "Encoded-Path", "Size", "WAL-Ranges", "Checksum"]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_signed_nonsense_is_a_mismatch_and_not_a_crash(value: object) -> None:
    body = json.dumps({"PostgreSQL-Backup-Manifest-Version": 2, "Files": value})
    with pytest.raises(LogshipError):
        parse_manifest(signed(body.removesuffix("}").encode() + b",\n"))


def test_deep_nesting_is_a_mismatch() -> None:
    deep = b'{ "PostgreSQL-Backup-Manifest-Version": 1, "x": ' + b"[" * 100_000 + b"\n"
    with pytest.raises(LogshipError):
        parse_manifest(signed(deep))


def test_refuses_lone_surrogates_and_double_paths() -> None:
    content = manifest({"\ud800": b""})
    with pytest.raises(LogshipError):
        parse_manifest(content)
    twice = manifest({"a": b"", "b": b""}).replace(b'"b"', b'"a"')
    body = twice[: twice.rindex(b'"Manifest-Checksum')]
    with pytest.raises(LogshipError, match="twice"):
        parse_manifest(signed(body))


def test_refuses_another_cluster_and_another_backup() -> None:
    parsed = parse_manifest(manifest(FILES))
    right = {"timeline": 1, "start_lsn": START_LSN, "end_lsn": END_LSN}
    check_identity(parsed, system_identifier=SYSTEM_IDENTIFIER, **right)
    check_identity(parsed, system_identifier=None, **right)
    with pytest.raises(LogshipError) as caught:
        check_identity(parsed, system_identifier=1, **right)
    assert caught.value.code is Code.SYSTEM_IDENTIFIER_MISMATCH
    for wrong in ({"timeline": 2}, {"start_lsn": 5}, {"end_lsn": 5}):
        with pytest.raises(LogshipError) as caught:
            check_identity(parsed, system_identifier=None, **{**right, **wrong})
        assert caught.value.code is Code.SEED_MANIFEST_MISMATCH

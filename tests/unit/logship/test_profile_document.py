"""A primary's profile as JSON: what is written comes back, what is none is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from logship.environment import CollationFacts, DatabaseFacts, Environment, ExtensionFacts
from logship.errors import Code, UsageError
from logship.profile_document import MAX_PROFILE_BYTES, profile_document, read_profile_document
from tests.support.link_frames import profile

FULL = profile(
    system_identifier=2**64 - 1,
    environment=Environment(
        libc="glibc 2.36",
        preload_libraries=("auto_explain",),
        resource_managers=((128, "test"),),
        databases=(
            DatabaseFacts(
                name="größe",
                encoding="UTF8",
                provider="i",
                collate="de",
                ctype="de",
                recorded_version="153.120",
                actual_version="153.121",
                collations=(
                    CollationFacts(
                        name='"sv-x-icu"',
                        provider="i",
                        locale="sv",
                        recorded_version="",
                        actual_version="",
                    ),
                ),
                extensions=(
                    ExtensionFacts(name="hstore", version="1.8", libraries=("$libdir/hstore",)),
                ),
            ),
        ),
    ),
)


def test_what_is_written_comes_back() -> None:
    for original in (FULL, profile()):
        document = json.loads(json.dumps(profile_document(original)))
        assert document["system_identifier"] == str(original.system_identifier)
        assert read_profile_document(document) == original
    # A later version may tell more, and an earlier one less.
    document = profile_document(FULL) | {"moon": "full"}
    del document["environment"], document["wal_level"]
    assert read_profile_document(document).environment is None


@pytest.mark.parametrize(
    "changes",
    [
        {"system_identifier": "seven"},
        {"system_identifier": 10**30},
        {"max_connections": 10**400},
        {"max_connections": 1.5},
        {"data_checksums": "perhaps"},
        {"architecture": "\ud800"},
        {"environment": []},
        {"environment": {"databases": [{"name": 1}]}},
        {"architecture": "x" * MAX_PROFILE_BYTES},
    ],
)
def test_what_is_no_profile_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as refused:
        read_profile_document(profile_document(profile()) | changes)
    assert refused.value.code is Code.USAGE
    assert "shipper profile --json" in refused.value.hint
    assert len(refused.value.what) < 200


def test_an_empty_document_names_what_is_missing() -> None:
    with pytest.raises(UsageError, match="system_identifier"):
        read_profile_document({})

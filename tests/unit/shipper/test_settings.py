"""The shipper's settings: what belongs together, and what must not be said aloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from logship.settings import SettingsError, parse_settings
from logship.settings_text import render_commented
from shipper.settings import ShipperSettings, load_shipper_settings
from shipper.settings_archive import ArchiveSettings

FILE = Path("/etc/logship/shipper.toml")
KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
LINES = {
    "instance": '"main"',
    "primary.conninfo": '"host=/tmp"',
    "link.address": '"tcp://recovery.example.com:7432"',
    "link.applier_public_key_file": '"applier.pub"',
    "link.secret_key_file": '"main.key"',
}


def parse(**changes: str | None) -> ShipperSettings:
    """The smallest settings with `changes`: primary__slot='"x"' sets, None removes."""
    lines: dict[str, str | None] = dict(LINES)
    lines.update({name.replace("__", "."): value for name, value in changes.items()})
    text = "\n".join(f"{name} = {value}" for name, value in lines.items() if value is not None)
    return parse_settings(text, ShipperSettings, file=FILE)


def problems(**changes: str | None) -> list[tuple[str, str]]:
    with pytest.raises(SettingsError) as caught:
        parse(**changes)
    return [(each.key, each.what) for each in caught.value.findings]


def test_the_smallest_settings_are_enough() -> None:
    settings = parse()
    assert settings.protection == "async"
    assert settings.link.applier_public_key_file == Path("/etc/logship/applier.pub")
    assert settings.instance_directory == Path("/var/lib/logship/shipper/main")


def test_slot_and_application_name_come_from_the_instance_and_need_no_quotes() -> None:
    settings = parse(instance='"sales-eu"')
    assert settings.slot_name == settings.application_name == "logship_sales_eu"


def test_a_slot_of_ones_own_does_not_change_the_application_name() -> None:
    settings = parse(primary__slot='"mine"')
    assert (settings.slot_name, settings.application_name) == ("mine", "logship_main")


@pytest.mark.parametrize("name", ['"Main"', '""', '"../x"', '"1a"', '"a b"'])
def test_a_name_that_no_instance_can_have_is_refused(name: str) -> None:
    ((key, what),) = problems(instance=name)
    assert key == "instance"
    assert "cannot name an instance" in what


@pytest.mark.parametrize(
    ("addition", "what"),
    [
        ("replication=true", "primary.conninfo sets replication"),
        ("application_name=x", "primary.conninfo sets application_name"),
        ("connect_timeout=3", "primary.conninfo sets connect_timeout"),
        ("target_session_attrs=standby", "primary.conninfo asks for a standby"),
        ("nonsense=1", "primary.conninfo is not a libpq connection string"),
    ],
)
def test_a_connection_string_must_not_contradict_the_shipper(addition: str, what: str) -> None:
    ((key, said),) = problems(primary__conninfo=f'"host=/tmp {addition}"')
    assert key == "primary.conninfo"
    assert said.startswith(what)


@pytest.mark.parametrize(
    "conninfo",
    [
        "postgresql://u@a,b/db?target_session_attrs=read-write",
        "service=main passfile=/etc/logship/pass",
        "host=a port=1",
    ],
)
def test_connection_strings_of_every_form_are_taken(conninfo: str) -> None:
    assert parse(primary__conninfo=f'"{conninfo}"').primary.conninfo == conninfo


@pytest.mark.parametrize(
    "conninfo",
    [
        "host=/tmp password=hunter2 application_name=x",
        "host=/tmp password=se cret hunter2",
        "postgresql://u:hunter2@h/db?replication=1",
        "hunter2",
    ],
)
def test_a_password_never_shows_in_a_message(conninfo: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(primary__conninfo=f'"{conninfo}"', protection='"snyc"', primary__slot='"hunter-2"')
    said = f"{caught.value} {caught.value.as_dict()}"
    assert "hunter2" not in said
    assert "cret" not in said.replace("secret", "")


@pytest.mark.parametrize(
    "address",
    [
        "recovery:1",
        "tcp://recovery",
        "tcp://:1",
        "tcp://r:0",
        "tcp://r:65536",
        "ipc:///x",
        "tcp://*:1",
    ],
)
def test_an_address_that_can_not_be_connected_to_is_refused(address: str) -> None:
    assert [key for key, _ in problems(link__address=f'"{address}"')] == ["link.address"]


def test_exactly_one_public_key_is_wanted() -> None:
    assert problems(link__applier_public_key_file=None) == [
        (
            "link.applier_public_key",
            "applier_public_key and applier_public_key_file are both missing",
        )
    ]
    assert problems(link__applier_public_key=f'"{KEY}"')[0][1].endswith("are both given")
    settings = parse(link__applier_public_key=f'"{KEY}"', link__applier_public_key_file=None)
    assert settings.link.applier_public_key == KEY


@pytest.mark.parametrize("key", [KEY[1:], KEY + "x", "~" * 40, "/etc/logship/applier.pub"])
def test_text_that_is_no_key_is_refused_without_being_shown(key: str) -> None:
    changes = {"link__applier_public_key": f'"{key}"', "link__applier_public_key_file": None}
    ((where, what),) = problems(**changes)
    assert where == "link.applier_public_key"
    assert key not in what


def test_a_slot_name_must_be_one_that_postgresql_takes() -> None:
    assert problems(primary__slot='"My-Slot"') == [
        ("primary.slot", "primary.slot must be a slot name: at most 63 of a-z, 0-9 and '_'")
    ]


def test_what_init_writes_is_settings(tmp_path: Path) -> None:
    file = tmp_path / "shipper.toml"
    file.write_text(render_commented(ShipperSettings, "Title.", {"instance": "sales"}))
    assert load_shipper_settings(file).instance == "sales"


def test_an_archive_source_needs_an_outbox() -> None:
    ((key, what),) = problems(primary__source='"archive"')
    assert key == "archive.outbox"
    assert "missing" in what
    settings = parse(primary__source='"archive"', archive__outbox='"outbox"')
    assert settings.archive.outbox == Path("/etc/logship/outbox")


def test_no_commit_can_wait_for_an_archiver() -> None:
    ((key, _),) = problems(
        primary__source='"archive"', archive__outbox='"outbox"', protection='"sync"'
    )
    assert key == "protection"
    assert parse(archive__outbox='"outbox"', protection='"sync"').protection == "sync"


NO_LINK: dict[str, str | None] = {
    "link__address": None,
    "link__applier_public_key_file": None,
    "link__secret_key_file": None,
}


def test_a_bucket_alone_is_enough() -> None:
    settings = parse(bucket__url='"s3://wal-archive/logship"', **NO_LINK)
    assert settings.link is None
    assert settings.bucket is not None
    assert settings.bucket.role == "required"
    assert settings.bucket.max_delay_seconds == 1.0


def test_without_any_road_nothing_is_shipped() -> None:
    ((key, what),) = problems(**NO_LINK)
    assert key == "link"
    assert "neither" in what


@pytest.mark.parametrize("role", ["optional", "spill"])
def test_the_only_road_is_required(role: str) -> None:
    found = problems(bucket__url='"file:///srv/wal"', bucket__role=f'"{role}"', **NO_LINK)
    assert [key for key, _ in found] == ["bucket.role"]


def test_signs_of_life_are_none_by_default_and_not_too_many() -> None:
    url = {"bucket__url": '"file:///srv/wal"'}
    plain = parse(**url, **NO_LINK).bucket
    assert plain is not None and plain.alive_every_seconds == 0
    often = parse(**url, bucket__alive_every_seconds="10", **NO_LINK).bucket
    assert often is not None and often.alive_every_seconds == 10
    for wrong in ("9.9", "0.001"):
        found = problems(**url, bucket__alive_every_seconds=wrong, **NO_LINK)
        assert [key for key, _ in found] == ["bucket.alive_every_seconds"]


def test_a_bucket_that_only_spills_takes_no_signs_of_life() -> None:
    found = problems(
        bucket__url='"file:///srv/wal"', bucket__role='"spill"', bucket__alive_every_seconds="30"
    )
    assert [key for key, _ in found] == ["bucket.alive_every_seconds"]


@pytest.mark.parametrize(
    "bucket", [{}, {"bucket__role": '"spill"'}, {"bucket__role": '"optional"'}]
)
def test_one_road_is_required(bucket: dict[str, str | None]) -> None:
    url: dict[str, str | None] = {"bucket__url": '"file:///srv/wal"'} if bucket else {}
    found = problems(link__required="false", **url, **bucket)
    assert [key for key, _ in found] == ["link.required"]


def test_a_link_may_stand_back_behind_a_required_bucket() -> None:
    settings = parse(link__required="false", bucket__url='"file:///srv/wal"')
    assert settings.link is not None
    assert not settings.link.required


def test_recipients_are_looked_at() -> None:
    found = problems(bucket__url='"file:///srv/wal"', bucket__recipients='["age1nonsense"]')
    assert [key for key, _ in found] == ["bucket.recipients"]


def test_a_road_that_is_not_used_stands_in_comments_in_what_init_writes(tmp_path: Path) -> None:
    file = tmp_path / "shipper.toml"
    file.write_text(render_commented(ShipperSettings, "Title.", {"instance": "sales"}))
    settings = load_shipper_settings(file)
    assert settings.link is not None
    assert settings.bucket is None
    assert settings.archive == ArchiveSettings(), "no directory that may not be there"
    assert '#fill_gaps_from = "/var/lib/postgresql/wal-archive"' in file.read_text()
    # Without the comment signs of the section, it is there.
    text = file.read_text().replace("#[bucket]", "[bucket]").replace("#url =", "url =")
    file.write_text(text)
    settings = load_shipper_settings(file)
    assert settings.bucket is not None
    assert settings.bucket.url == "s3://wal-archive/logship"


def test_init_writes_a_bucket_that_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "shipper.toml"
    values = {"instance": "sales", "bucket.url": "file:///srv/wal"}
    file.write_text(render_commented(ShipperSettings, "Title.", values))
    settings = load_shipper_settings(file)
    assert settings.bucket is not None
    assert settings.bucket.url == "file:///srv/wal"

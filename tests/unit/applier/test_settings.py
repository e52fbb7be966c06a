"""The applier's settings: what instances may not share, and what is the applier's to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from applier.settings import ApplierSettings, load_applier_settings
from logship.settings import SettingsError, parse_settings
from logship.settings_text import render_commented

FILE = Path("/etc/logship/applier.toml")
KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
ONE = '[instances.one]\nport = 5433\npublic_key_file = "one.pub"\n'


def parse(text: str) -> ApplierSettings:
    return parse_settings(text, ApplierSettings, file=FILE)


def problems(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(SettingsError) as caught:
        parse(text)
    return [(each.line, each.key, each.what) for each in caught.value.findings]


def test_one_instance_is_enough() -> None:
    settings = parse(ONE)
    assert settings.directory == Path("/var/lib/logship")
    assert settings.link.listen == "tcp://*:7432"
    assert settings.instances["one"].public_key_file == Path("/etc/logship/one.pub")


def test_an_applier_may_have_no_instance_yet() -> None:
    assert parse("").instances == {} and not parse("").has_link


@pytest.mark.parametrize(
    ("extra", "key", "what"),
    [
        ('port = 5433\npublic_key_file = "two"', "port", "the same port"),
        ('port = 5434\npublic_key_file = "one.pub"', "public_key_file", "the same public key"),
        ('port = 7432\npublic_key_file = "two"', "port", "on which the link listens"),
    ],
)
def test_instances_share_no_port_and_no_key(extra: str, key: str, what: str) -> None:
    ((_, where, said),) = problems(f"{ONE}[instances.two]\n{extra}\n")
    assert where == f"instances.two.{key}"
    assert what in said


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("minor-oder", "there is no version rule 'minor-oder'"),
        ("system-identifier", "the version rule 'system-identifier' can't be overridden"),
    ],
)
def test_only_rules_that_may_be_are_overridden(rule: str, what: str) -> None:
    ((_, key, said),) = problems(f"{ONE}overrides = ['minor-order', '{rule}']\n")
    assert (key, said) == ("instances.one.overrides", f"instances.one.overrides: {what}")
    assert parse(f"{ONE}overrides = ['minor-order']\n").instances["one"].overrides


def test_a_key_as_text_is_not_shared_either() -> None:
    two = f"[instances.a]\nport=1\npublic_key='{KEY}'\n[instances.b]\nport=2\npublic_key='{KEY}'\n"
    assert problems(two)[0][:2] == (6, "instances.b.public_key")


def test_an_instance_without_a_key_or_with_two_is_refused() -> None:
    assert "both missing" in problems("[instances.a]\nport = 1\n")[0][2]
    assert "both given" in problems(f"{ONE}public_key = '{KEY}'\n")[0][2]


BUCKET = "[bucket]\nurl = 's3://archive/logship'\n"


def test_with_a_bucket_no_key_is_needed_and_no_link_listens() -> None:
    settings = parse(f"{BUCKET}[instances.a]\nport = 7432\n")
    assert settings.is_attached("a") and not settings.has_link
    settings = parse(f"{BUCKET}{ONE}bucket = false\n")
    assert not settings.is_attached("one") and settings.has_link
    assert not parse(ONE).is_attached("one")


def test_an_instance_needs_one_of_the_two_roads() -> None:
    ((_, key, what),) = problems(f"{BUCKET}[instances.a]\nport = 1\nbucket = false\n")
    assert key == "instances.a.public_key" and "no bucket" in what
    ((_, key, what),) = problems(f"{ONE}bucket = true\n")
    assert key == "instances.one.bucket" and "no table [bucket]" in what


def test_a_name_that_no_instance_can_have_is_refused() -> None:
    ((line, _, what),) = problems('[instances."Big One"]\nport = 1\npublic_key_file = "x"\n')
    assert line == 1
    assert "cannot name an instance" in what


@pytest.mark.parametrize(
    "name", ["port", "PORT", "primary_conninfo", "recovery_target_lsn", "shared_buffers"]
)
@pytest.mark.parametrize("section", ["standby", "instances.one"])
def test_settings_that_the_applier_writes_can_not_be_given(section: str, name: str) -> None:
    ((_, key, what),) = problems(f"{ONE}[{section}.settings]\n{name} = 1\n")
    assert key == f"{section}.settings.{name}"
    assert "has its own setting" in what or "can't be set for a standby" in what


def test_an_instance_overrides_what_all_standbys_get() -> None:
    settings = parse(
        "[standby]\nlisten_addresses = '*'\nsettings = { work_mem = '4MB', jit = false }\n"
        + ONE
        + "listen_addresses = ''\nshared_buffers_mb = 7\nsettings = { work_mem = '8MB' }\n"
        + "[instances.two]\nport = 5434\npublic_key_file = 'two'\n"
    )
    assert settings.listen_addresses_of("one") == ""
    assert settings.listen_addresses_of("two") == "*"
    assert settings.shared_buffers_mb_of("one") == 7
    assert settings.shared_buffers_mb_of("two") == 128
    assert settings.parameters_of("one") == {"work_mem": "8MB", "jit": False}
    assert settings.parameters_of("two") == {"work_mem": "4MB", "jit": False}


@pytest.mark.parametrize("listen", ["*:7432", "tcp://*", "tcp://*:0", "tcp://[::1:7432"])
def test_an_address_that_can_not_be_listened_on_is_refused(listen: str) -> None:
    assert problems(f"link.listen = '{listen}'\n{ONE}")[0][:2] == (1, "link.listen")


def test_what_init_writes_is_settings(tmp_path: Path) -> None:
    file = tmp_path / "applier.toml"
    file.write_text(render_commented(ApplierSettings, "Title."))
    assert load_applier_settings(file) == ApplierSettings(), "nothing but the defaults"
    file.write_text(render_commented(ApplierSettings, "Title.", {"instances.one.port": 5433}))
    assert list(load_applier_settings(file).instances) == ["one"]

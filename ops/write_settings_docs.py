"""Writes docs/settings.md from the settings' own descriptions: run it after changing one."""

from __future__ import annotations

from pathlib import Path

from applier.settings import ApplierSettings
from logship.settings_text import render_markdown
from shipper.settings import ShipperSettings

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "settings.md"

_HEAD = """\
# Settings

One TOML file for each side. `shipper init` and `applier init` write one with every setting
explained; `shipper check` and `applier check` say what is wrong with it and with what it names.
Every mistake in a file is reported at once, with its line. Relative paths are taken from the
file's own directory.

Variables of the environment stand above the file: `LOGSHIP__LINK__LISTEN` is `link.listen`,
`LOGSHIP__INSTANCES__MAIN__PORT` is `instances.main.port`; between two underscores stands one part
of the key. Text is given as it is, all else as TOML writes it (`30`, `true`, `["/srv/a"]`). The
file must be there all the same, and may be empty. Every command that reads the settings needs the
same variables.

This page is made from the program (`python ops/write_settings_docs.py`): do not edit it.
"""


def document() -> str:
    """What docs/settings.md must be."""
    parts = (
        _HEAD,
        "## Shipper\n\n`/etc/logship/shipper.toml`, or what `--config` names.\n",
        render_markdown(ShipperSettings),
        "## Applier\n\n`/etc/logship/applier.toml`, or what `--config` names.\n",
        render_markdown(ApplierSettings),
    )
    return "\n".join(parts)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")

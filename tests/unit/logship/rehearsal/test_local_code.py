"""Copies of Logship for the machines that are directories of this host."""

from __future__ import annotations

import os
from pathlib import Path

from logship.postgres.run_as import RunAs
from logship.rehearsal.engine import PACKAGES
from logship.rehearsal.engine.local_code import CodeDirectory

OURSELVES = RunAs("ourselves", os.geteuid(), os.getegid(), (), changes=False)


def test_what_another_process_compiles_meanwhile_is_not_missed(tmp_path: Path) -> None:
    """A compiled module has a name of its own until it is whole: one that was there when a
    directory was read is gone when it is to be copied, as where a link leads that leads nowhere."""
    source, copies = tmp_path / "source", tmp_path / "copies"
    copies.mkdir()
    for package in PACKAGES:
        (source / package / "__pycache__").mkdir(parents=True)
        (source / package / "__init__.py").touch()
        compiled = source / package / "__pycache__" / "__init__.cpython-311.pyc"
        compiled.touch()
        compiled.with_name(f"{compiled.name}.140124560842192").symlink_to("nowhere")
    CodeDirectory(copies, OURSELVES).command(str(source))
    found = sorted(path.name for path in copies.rglob("*.pyc*"))
    assert found == ["__init__.cpython-311.pyc"] * len(PACKAGES)

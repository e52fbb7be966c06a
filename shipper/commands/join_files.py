"""The files that a join makes: keys and settings, beside each other, and never over others.

While it is under way `NAME.joining` stands beside them: the keys are this join's then, also after
a crash or a refusal, and joining again goes on with them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from logship import durable
from logship.errors import Code, LogshipError, RefusedError
from logship.link.keys import KeyPair, generate, load_pair


class JoinFiles(NamedTuple):
    """Where everything goes."""

    settings: Path
    secret_key: Path
    public_key: Path
    applier_key: Path
    """The applier's public key.  Instances have no dot in their names: it is nobody's pair."""
    marker: Path

    @classmethod
    def beside(cls, settings: Path, instance: str) -> JoinFiles:
        """Those of `instance`, in the directory of its settings file."""
        settings = settings.absolute()
        directory = settings.parent
        return cls(
            settings,
            directory / f"{instance}.key",
            directory / f"{instance}.pub",
            directory / f"{instance}.applier.pub",
            directory / f"{instance}.joining",
        )

    def check(self) -> None:
        """Raise RefusedError(SETTINGS) if something is there that a join would overwrite, or if
        the shipper could not read what it would leave."""
        _refuse_root_in_a_directory_of_others(self.settings.parent)
        if _is_there(self.settings):
            hint = "choose another name with --config, or move it away"
            if _is_there(self.marker):
                hint = f"the join was all but done: remove {self.marker}, then shipper check"
            raise RefusedError(Code.SETTINGS, f"{self.settings} exists already", hint)
        if _is_there(self.marker):
            return
        for path in (self.secret_key, self.public_key, self.applier_key):
            if _is_there(path):
                raise RefusedError(
                    Code.SETTINGS,
                    f"{path} exists already",
                    "if nothing uses it any more, move it away; or put the settings file, and "
                    "the keys with it, into another directory with --config",
                )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nothing of others is there, and nobody else joins with these files meanwhile.

        Raises LogshipError: RefusedError(SETTINGS) where that is not so.
        """
        self.check()
        with _disk(self.marker.parent):
            durable.make_directory(self.marker.parent)
        with _disk(self.marker):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self.marker, flags, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RefusedError(
                    Code.SETTINGS,
                    f"another join holds {self.marker}",
                    "wait for it, or end it",
                ) from None
            with _disk(self.marker):
                durable.sync_directory(self.marker.parent)
            yield
        finally:
            os.close(fd)

    def keys(self) -> KeyPair:
        """The shipper's pair: that of a join that broke off, or a new one.  While `held`."""
        if not self.secret_key.exists():
            return generate(self.secret_key.parent, self.secret_key.stem)
        pair = load_pair(self.secret_key)
        with _disk(self.public_key):
            durable.write_file(self.public_key, f"{pair.public}\n".encode(), 0o644)
        return pair

    def finish(self, applier_public_key: str, settings_text: str) -> None:
        """Write the rest.  While `held`.  The settings file comes last: with it all is there."""
        with _disk(self.settings.parent):
            durable.write_file(self.applier_key, f"{applier_public_key}\n".encode(), 0o644)
            durable.write_file(self.settings, settings_text.encode(), 0o600)
            durable.remove(self.marker)


def _refuse_root_in_a_directory_of_others(directory: Path) -> None:
    try:
        owner = directory.stat().st_uid
    except OSError:
        return  # it is to be made, and is ours then; or the error comes when it is used
    if os.geteuid() != 0 or owner == 0:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    raise RefusedError(
        Code.SETTINGS,
        f"{directory} belongs to {name}, who could not read keys that root makes",
        f"run it as that user: sudo -u {name} shipper join",
    )


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """What the operating system says of `path`, as an error of ours."""
    try:
        yield
    except OSError as error:
        raise LogshipError(
            Code.SETTINGS,
            f"{path} can't be written: {error.strerror}",
            "run this as the user that the shipper runs as; the directory must be theirs",
        ) from error

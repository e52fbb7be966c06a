"""A copy of a real instance, from what a recovery server keeps of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from logship.errors import Code, LogshipError
from logship.postgres.postmaster import remove_shared_memory
from logship.postgres.process import stop_server

_RUN = "from applier.commands import main; raise SystemExit(main())"
# The server listens on its socket alone, in a directory of its own.
_PORT = "5432"


@contextlib.contextmanager
def restored_instance(instance: str, applier_settings: Path) -> Iterator[Path]:
    """The newest state of an instance, as a data directory whose server is stopped; it is
    removed afterwards.

    By `applier restore` on this host, in the directory for temporary files (`TMPDIR`).  The
    instance's own standby, store and seeds are read and not touched.

    Raises LogshipError: what the restore said, or it has tablespaces.
    """
    with tempfile.TemporaryDirectory(prefix="logship-") as parent:
        Path(parent).chmod(0o755)
        into = Path(parent, "restored")
        command: list[str | Path] = [
            *(sys.executable, "-c", _RUN, "restore", instance, "--latest", "--json"),
            *("--into", into, "--listen", "", "--port", _PORT, "--config", applier_settings),
        ]
        data = into / "data"
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode != 0:
                raise _failed(instance, _words(done))
            stop_server(data)
            if any((data / "pg_tblspc").iterdir()):
                raise _failed(instance, "it has tablespaces, which are not copied")
            yield data
        finally:
            with contextlib.suppress(LogshipError):
                stop_server(data, "immediate")
            remove_shared_memory(data)


def _words(done: subprocess.CompletedProcess[str]) -> str:
    try:
        error = json.loads(done.stdout)["error"]
        return f"{error['what']} [{error['code']}]"
    except (ValueError, KeyError, TypeError):
        return (done.stderr or done.stdout).strip()[-800:] or "it said nothing"


def _failed(instance: str, why: str) -> LogshipError:
    return LogshipError(
        Code.REHEARSAL_FAILED,
        f"{instance} can't be copied for a rehearsal: {why}",
        f"`applier window {instance}` shows what is kept of it",
    )

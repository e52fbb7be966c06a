"""The S3 server of the tests, and the part of it that one test has to itself."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from logship.objects import ObjectStore
from logship.objects.opening import open_store
from logship.settings_bucket import BucketSettings
from shipper.commands.demo.s3_server import PORTS, Account, S3Server
from tests.support.waiting import free_port

BUCKET = "logship-tests"

ABSENT_CONFIGURATION = "/nonexistent/aws-configuration"


@contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """A server with the bucket `BUCKET`, which ends with the block: 3 to 5 seconds."""
    with tempfile.TemporaryDirectory(prefix="logship-s3-") as directory:
        ports = [free_port() for _ in range(PORTS)]
        with S3Server(Path(directory) / "server", ports) as server:
            server.make_bucket(BUCKET)
            yield server


@contextmanager
def credentials_of(account: Account) -> Iterator[None]:
    """The account as this process's default credentials, and nothing of the machine's own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in environment_of(account).items():
            patch.setenv(name, value)
        yield


def environment_of(account: Account) -> dict[str, str]:
    """For a process of ours: the account by the default chain, and no other place to look."""
    return {
        **account.environment,
        "AWS_CONFIG_FILE": ABSENT_CONFIGURATION,
        "AWS_SHARED_CREDENTIALS_FILE": ABSENT_CONFIGURATION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


class S3Bucket(NamedTuple):
    """An empty prefix of the server's bucket, for one test."""

    server: S3Server
    prefix: str

    @classmethod
    def of(cls, server: S3Server) -> S3Bucket:
        return cls(server, f"test-{secrets.token_hex(6)}")

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    @property
    def endpoint_url(self) -> str:
        return self.server.endpoint_url

    @property
    def environment(self) -> dict[str, str]:
        """Credentials for a process of ours (this process has them by the fixture)."""
        return environment_of(self.server.owner)

    def settings(
        self, *, endpoint_url: str = "", timeout_seconds: float = 20.0, attempts: int = 4
    ) -> BucketSettings:
        return BucketSettings(
            url=self.url,
            endpoint_url=endpoint_url or self.endpoint_url,
            timeout_seconds=timeout_seconds,
            attempts=attempts,
        )

    def store(self) -> ObjectStore:
        """A new client; closing it is the caller's."""
        return open_store(self.settings())

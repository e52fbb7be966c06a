"""All of it by compose: work, stops and kills of each part, a promotion by the published port."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from logship.lsn import Lsn
from tests.support.pair import durable_lsn
from tests.support.product_images import ROOT, ProductImages, said
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.timeout(900)  # the first builds the images

PATIENCE_SECONDS = 180.0
"""All of it is on disks, and each question starts a program in a container."""

# In the shipper's container, whose credentials and endpoint these are.
NAMES_OF_WAL = """
import os
import boto3
from botocore.config import Config

client = boto3.client(
    "s3",
    endpoint_url=os.environ["ENDPOINT_URL"],
    region_name="us-east-1",
    config=Config(s3={"addressing_style": "path"}),
)
found = client.list_objects_v2(Bucket="logship", Prefix="production/main/")
print(*[each["Key"] for each in found.get("Contents", ()) if "/wal/" in each["Key"]], sep="\\n")
"""
CONTENTS = "select count(*), md5(string_agg(id || v, ',' order by id)) from t"


def compose_command() -> list[str]:
    """Of version 2, or Debian's version 1."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and not subprocess.run(
                [*command, "version"], capture_output=True, check=False
            ).returncode
        ):
            return command
    pytest.skip("there is neither `docker compose` nor docker-compose")


class Site:
    """What containers/compose.yaml brings up, under a name and with ports of its own."""

    def __init__(self, product: ProductImages) -> None:
        self._compose = compose_command()
        self.add_file("compose.yaml")
        self.ports = {"primary": free_port(), "applier": free_port()}
        self._environment = {
            "COMPOSE_PROJECT_NAME": f"logship-test-{os.getpid()}-{self.ports['primary']}",
            "SHIPPER_IMAGE": product.shipper,
            "APPLIER_IMAGE": product.applier,
            "S3_IMAGE": product.s3,
            "PRIMARY_PORT": str(self.ports["primary"]),
            "STANDBY_PORT": str(self.ports["applier"]),
        }
        self._password = ""

    def add_file(self, name: str) -> None:
        """... of containers/, for the next `up`."""
        self._compose += ["--file", str(ROOT / "containers" / name)]

    def compose(self, *words: str, **options: Any) -> str:
        return said(*self._compose, *words, environment=self._environment, **options)

    def up(self) -> None:
        self.compose("up", "--detach")
        self._password = self.on("primary", "cat", "/etc/logship/keys/primary.password")
        self.wait_following()

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout", "0")

    def on(self, service: str, *words: str, **options: Any) -> str:
        """Run a program in the container of a service."""
        return self.compose("exec", "-T", service, *words, **options)

    def container(self, service: str) -> str:
        return self.compose("ps", "--quiet", service)

    def state(self, service: str) -> dict[str, Any]:
        """As the engine has it: Running, ExitCode, Health."""
        form = "{{json .State}}"
        state: dict[str, Any] = json.loads(
            said("docker", "inspect", "--format", form, self.container(service))
        )
        return state

    def sql(self, service: str, statement: str) -> list[tuple[Any, ...]]:
        """By the published port."""
        with psycopg.connect(
            host="127.0.0.1",
            port=self.ports[service],
            user="postgres",
            dbname="postgres",
            password=self._password,
            autocommit=True,
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def insert(self, count: int) -> None:
        values = f"select repeat('v', 100) from generate_series(1, {count})"
        self.sql("primary", f"insert into t (v) {values}")

    def status(self) -> dict[str, Any] | None:
        """None while the applier does not answer."""
        answer = self._asked("applier", "applier", "status", "main", "--json")
        found: dict[str, Any] = json.loads(answer) if answer else {"error": "nothing"}
        return None if "error" in found else found

    def health(self) -> dict[str, Any]:
        """Of the shipper."""
        found: dict[str, Any] = json.loads(self._asked("shipper", "shipper", "health", "--json"))
        return found

    def _asked(self, service: str, *words: str) -> str:
        """What a program in the container of a service prints, however it ends."""
        return subprocess.run(
            [*self._compose, "exec", "-T", service, *words],
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    def wait_following(self) -> None:
        def follows() -> bool:
            found = self.status()
            return found is not None and bool(
                found["phase"] == "following"
                and found["link"]["state"] == "connected"
                and found["standby"]["replay_lsn"] is not None
            )

        try:
            wait_until(follows, PATIENCE_SECONDS, "a standby that follows")
        except TimeoutError as error:
            logs = self.compose("logs", "--tail=30", "applier", "shipper")
            raise AssertionError(f"{error}\n{self.status()}\n{logs}") from None

    def wait_durable(self) -> None:
        flushed = Lsn.parse(self.sql("primary", "select pg_current_wal_flush_lsn()::text")[0][0])
        wait_until(
            lambda: (found := self.status()) and durable_lsn(found) >= flushed,  # type: ignore[arg-type]
            PATIENCE_SECONDS,
            f"{flushed} is durable",
        )

    def wal_in_the_bucket(self) -> list[str]:
        """Names of objects, which begin with the prefix and the instance."""
        return self.on("shipper", "/opt/logship/bin/python3", "-c", NAMES_OF_WAL).split()

    def zombies(self) -> str:
        return self.on("applier", "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status || true")


@pytest.fixture
def site(product: ProductImages) -> Iterator[Site]:
    made = Site(product)
    try:
        made.up()
        yield made
    finally:
        made.down()


def test_through_stops_and_kills_to_a_promotion(site: Site) -> None:
    site.sql("primary", "create table t (id int generated always as identity primary key, v text)")
    site.insert(1000)
    for service in ("shipper", "applier"):
        wait_until(
            lambda service=service: site.state(service)["Health"]["Status"] == "healthy",
            PATIENCE_SECONDS,
            f"a healthy {service}",
        )
    wait_until(site.wal_in_the_bucket, PATIENCE_SECONDS, "WAL in the bucket, beside the link")
    stops_in_order_and_takes_up_what_came_meanwhile(site)
    outlives_kills(site)
    goes_on_with_a_sidecar(site)

    site.wait_durable()
    expected = site.sql("primary", CONTENTS)
    site.compose("kill", "primary")
    # Its steps are on standard error, and the engine brings the two in any order.
    promote = "shipper promote main --yes --json 2>/dev/null"
    assert json.loads(site.on("applier", "sh", "-c", promote))["lost_bytes"] == 0
    assert site.sql("applier", CONTENTS) == expected
    assert expected[0][0] == 4000
    site.sql("applier", "insert into t (v) values ('after')")

    # A promoted server stops in order as well, and comes back with its container.
    site.compose("restart", "applier")

    def rows() -> list[tuple[Any, ...]]:
        with contextlib.suppress(psycopg.OperationalError):
            return site.sql("applier", "select count(*) from t")
        return []

    assert wait_until(rows, PATIENCE_SECONDS, "a server that is back") == [(4001,)]
    assert "a server is stopped" in site.compose("logs", "applier")
    site.compose("stop", "shipper")
    assert site.state("shipper")["ExitCode"] == 0


def stops_in_order_and_takes_up_what_came_meanwhile(site: Site) -> None:
    site.compose("stop", "applier")
    assert site.state("applier")["ExitCode"] == 0
    assert "a server is stopped" in site.compose("logs", "--tail=5", "applier")

    def misses_link() -> bool:
        health = site.health()
        return not health["healthy"] and list(health["away"]) == ["link"]

    wait_until(misses_link, PATIENCE_SECONDS, "a shipper that misses its link")
    site.on("shipper", "shipper", "health", fails=True)
    site.insert(1000)
    site.compose("start", "applier")
    site.wait_following()
    log = site.on("applier", "sh", "-c", "cat /var/lib/logship/instances/main/*/standby/*.log")
    assert "not properly shut down" not in log


def outlives_kills(site: Site) -> None:
    for service in ("applier", "shipper"):
        site.compose("kill", service)
    # Also what is made at the first start is asked for again.
    site.compose("up", "--detach")
    site.wait_following()
    # A standby that ends is started anew, and process 1 takes up what is left of the old one.
    kill = "kill -9 $(head -n1 /var/lib/logship/instances/main/*/data/postmaster.pid)"
    site.on("applier", "sh", "-c", kill)
    site.insert(1000)
    site.wait_following()
    # Whoever has just ended is one for a moment.
    wait_until(lambda: site.zombies() == "", PATIENCE_SECONDS, "the end of what is left")


def goes_on_with_a_sidecar(site: Site) -> None:
    """The shipper comes by the primary's socket, also after a restart of that."""
    site.add_file("sidecar.yaml")
    site.compose("up", "--detach")
    site.insert(500)
    site.wait_durable()
    users = "select distinct client_addr from pg_stat_replication where usename = 'logship'"
    assert site.sql("primary", users) == [(None,)]
    site.compose("restart", "primary")

    def inserted() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            site.insert(500)
            return True
        return False

    wait_until(inserted, PATIENCE_SECONDS, "a primary that is back")
    site.wait_durable()

"""What the demo's shippers and applier are told: settings files for either road."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

MAX_DELAY_SECONDS = 0.2
"""Of the bucket: how old WAL may become before it is uploaded, and how often the applier looks."""

_SHIPPER = """
instance = "{instance}"
state_directory = "{directory}/shipper-{instance}"
protection = "{protection}"

[primary]
conninfo = "host={sockets} port={port} user=logship dbname=postgres"
"""

_SHIPPER_ROADS = {
    "link": """
[link]
address = "tcp://127.0.0.1:{link_port}"
applier_public_key_file = "{directory}/keys/applier.pub"
secret_key_file = "{directory}/keys/{instance}.key"
""",
    "s3": """
[bucket]
url = "s3://logship-demo"
endpoint_url = "{endpoint_url}"
max_delay_seconds = {max_delay_seconds}
""",
}

_APPLIER = """
directory = "{directory}/applier"

[link]
listen = "tcp://127.0.0.1:{link_port}"
secret_key_file = "{directory}/keys/applier.key"
heartbeat_seconds = 0.5

[api]
socket = "{directory}/run/applier.sock"

[wal_server]
socket_directory = "{directory}/run/wal"

[postgres]
installations = [{installations}]
run_as = "{run_as}"

[store]
keep_free_mb = 64

[standby]
shared_buffers_mb = 32
listen_addresses = ""
"""

_INSTANCE = """
[instances.{instance}]
port = {standby_port}
"""

_INSTANCE_ROADS = {
    "link": """public_key_file = "{directory}/keys/{instance}.pub"
""",
    "s3": "",
}

_APPLIER_ROADS = {
    "link": "",
    "s3": """
[bucket]
url = "s3://logship-demo"
endpoint_url = "{endpoint_url}"
poll_seconds = {max_delay_seconds}
""",
}


def shipper_settings(transport: str, **values: str | int | Path) -> str:
    """The text of a shipper's settings file.  transport: "link" or "s3".

    values: what stands in braces in the texts above.
    """
    text = _SHIPPER + _SHIPPER_ROADS[transport]
    return text.format(**values, max_delay_seconds=MAX_DELAY_SECONDS)


def applier_settings(
    transport: str, standby_ports: Mapping[str, int], **values: str | int | Path
) -> str:
    """The same of the applier.  standby_ports: by the name of the instance."""
    text = _APPLIER + _APPLIER_ROADS[transport]
    text = text.format(**values, max_delay_seconds=MAX_DELAY_SECONDS)
    instance = _INSTANCE + _INSTANCE_ROADS[transport]
    return text + "".join(
        instance.format(**values, instance=name, standby_port=port)
        for name, port in standby_ports.items()
    )

"""What the demo's shipper and applier are told: settings files for either road."""

from __future__ import annotations

from pathlib import Path

MAX_DELAY_SECONDS = 0.2
"""Of the bucket: how old WAL may become before it is uploaded, and how often the applier looks."""

_SHIPPER = """
instance = "{instance}"
state_directory = "{directory}/shipper"
protection = "{protection}"

[primary]
conninfo = "host={sockets} port={port} user=logship dbname=postgres"
"""

_SHIPPER_ROADS = {
    "link": """
[link]
address = "tcp://127.0.0.1:{link_port}"
applier_public_key_file = "{directory}/keys/applier.pub"
secret_key_file = "{directory}/keys/shipper.key"
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
installations = ["{installation}"]
run_as = "{run_as}"

[store]
keep_free_mb = 64

[standby]
shared_buffers_mb = 32
listen_addresses = ""

[instances.{instance}]
port = {standby_port}
"""

_APPLIER_ROADS = {
    "link": """public_key_file = "{directory}/keys/shipper.pub"
""",
    "s3": """
[bucket]
url = "s3://logship-demo"
endpoint_url = "{endpoint_url}"
poll_seconds = {max_delay_seconds}
""",
}


def settings_of_both(transport: str, **values: str | int | Path) -> dict[str, str]:
    """The texts of the settings files, by program.  transport: "link" or "s3".

    values: what stands in braces in the texts above.
    """
    filled = {**values, "max_delay_seconds": MAX_DELAY_SECONDS}
    return {
        "applier": (_APPLIER + _APPLIER_ROADS[transport]).format(**filled),
        "shipper": (_SHIPPER + _SHIPPER_ROADS[transport]).format(**filled),
    }

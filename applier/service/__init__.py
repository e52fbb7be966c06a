"""Every instance of one recovery server, and what serves them, as one.

- `service`: `Service`, which opens and closes all of it, and does what the API is asked.
- `finishing`: goes on with interrupted promotions; `looking`: looks for changed packages, and into
  running standbys.
- `process`: `applier run`; `offline`: `shipper promote --offline`.
"""

from applier.service.offline import promote_offline
from applier.service.process import run
from applier.service.service import Service

__all__ = ["Service", "promote_offline", "run"]

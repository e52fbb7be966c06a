"""The applier's local HTTP API, for operators' commands and scripts, on a unix socket.

    GET  /v1/instances               {"instances": [status, …]}
    GET  /v1/instances/NAME          status (`logship.status.InstanceStatus`)
    POST /v1/instances/NAME/promote  lines of JSON: {"step", "details"} …, then {"result"} or
                                     {"error", "status"}
    GET  /v1/fleet                   {"instances": [where each is from, and its settings, …]}
    POST /v1/instances/NAME/add      {"set"} → as in the fleet
    POST /v1/instances/NAME/change   {"set", "unset"} → as in the fleet
    POST /v1/instances/NAME/remove   {"keep_data", "promoted"} → what was done
    POST /v1/instances/NAME/seed     {"why", "from"} → what was asked for
    POST /v1/instances/NAME/retention  {"dry_run"} → what went, and why all else stays

Errors are {"error": {"code", "what", "hint", "retryable"}} with status 400 (usage), 404
(unknown instance), 409 (refused by a check), 503 (may work later), 500 (failed).  The
socket's permissions are the only access control: who may write to it may promote
and remove instances.

`operations` says what the API asks of the applier; `server` is the HTTP side.
"""

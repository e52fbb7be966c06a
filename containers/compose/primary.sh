#!/bin/sh
# A primary to be protected, in place of your own: made at its first start, then PostgreSQL itself.
set -eu
bin=/usr/lib/postgresql/$PRIMARY_MAJOR/bin
data=/var/lib/logship/primary
keys=/etc/logship/keys

if [ ! -e "$data/is-made" ]; then
    rm -rf "$data"
    "$bin/initdb" -D "$data" --username=postgres --pwfile="$keys/primary.password" \
        --auth-local=peer --auth-host=scram-sha-256 --data-checksums --encoding=UTF8 --locale=C
    cat >>"$data/pg_hba.conf" <<'END'
host  all          all      all  scram-sha-256
host  replication  logship  all  scram-sha-256
END
    # docs/running-a-pair.md: the role may replicate and read statistics, and nothing else.
    echo "CREATE ROLE logship LOGIN REPLICATION PASSWORD '$(cat "$keys/primary.password")'" >"$data/role"
    echo "GRANT pg_monitor TO logship" >>"$data/role"
    "$bin/postgres" --single -D "$data" postgres <"$data/role" >/dev/null
    rm "$data/role"
    touch "$data/is-made"
fi
exec "$bin/postgres" -D "$data" -c 'listen_addresses=*' -c unix_socket_directories=/run/logship \
    -c max_slot_wal_keep_size=4GB

#!/bin/sh
# What the services need to know of each other, made once.  In production each secret is made where
# it stays (docs/containers.md); here they share one volume.
set -eu
cd /etc/logship/keys
umask 077

secret() { python3 -c 'import secrets; print(secrets.token_hex(20))'; }

[ -e applier.key ] || applier keygen .
[ -e main.key ] || shipper keygen . --name main
[ -e primary.pass ] || {
    password=$(secret)
    echo "$password" >primary.password
    echo "*:*:*:*:$password" >primary.pass
}
[ -e aws ] || {
    key=$(secret)
    cat >s3.json <<END
{"identities": [{"name": "logship", "credentials": [{"accessKey": "logship", "secretKey": "$key"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
END
    printf '[default]\naws_access_key_id = logship\naws_secret_access_key = %s\n' "$key" >aws
}

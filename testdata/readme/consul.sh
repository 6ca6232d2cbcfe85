#!/usr/bin/env bash
# The README of the Consul IPAM plugin, its commands as printed, under its program's name.
# Usage: consul.sh SUBLET FOLDER
# The README quotes nothing:
# shellcheck disable=SC2086
set -euo pipefail

cd "$2"
mkdir store
ln -s "$1" consul

cat > default.conf <<'CONF'
{
"name": "default",
"ipam": {
"type": "consul",
"consul_addr": "127.0.0.1",
"consul_port": "8500",
"dc": "dc1",
"subnet": "203.0.113.0/24"
}
}
CONF
cat > ipv6.conf <<'CONF'
{
"name": "ipv6",
"ipam": {
"type": "consul",
"consul_addr": "127.0.0.1",
"consul_port": "8500",
"dc": "dc1",
"subnet": "3ffe:ffff:0:01ff::/64",
"range-start": "3ffe:ffff:0:01ff::0010",
"range-end": "3ffe:ffff:0:01ff::0020",
"routes": [
{ "dst": "3ffe:ffff:0:01ff::1/64" }
]
}
}
CONF
cat > ipv4.conf <<'CONF'
{
"name": "ipv4",
"ipam": {
"type": "consul",
"consul_addr": "127.0.0.1",
"consul_port": "8500",
"dc": "dc1",
"subnet": "203.0.113.1/24",
"range-start": "203.0.113.10",
"range-end": "203.0.113.20",
"routes": [
{ "dst": "203.0.113.0/24" }
]
}
}
CONF

# A local store that is used by mistake would be seen here.
export IPAM_DB_PATH="$2/store/leases.redb"

for name in default ipv6 ipv4; do
    conf=$name.conf
    exec 3>&1 > $name.json
    set +e
    export CNI_COMMAND=ADD
    export CNI_CONTAINERID=f81d4fae-7dec-11d0-a765-00a0c91e6bf6
    ./consul < $conf
    echo $? > $name.status
    set -e
    exec 1>&3
done

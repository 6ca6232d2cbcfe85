#!/usr/bin/env bash
# The README of the ECS IPAM plugin, its commands as printed, under its program's name.
# Usage: ecs-ipam.sh SUBLET FOLDER
# The README pipes with cat and has backticks:
# shellcheck disable=SC2002,SC2006,SC2155
set -euo pipefail

mkdir -p "$2/bin" "$2/conf"
ln -s "$1" "$2/bin/ecs-ipam"
cd "$2/conf"

cat > mynet.conf <<'CONF'
{
"ipam": {
"type": "ecs-ipam",
"id": "12345",
"ipv4-address": "10.0.0.2/24",
"ipv4-gateway": "10.0.0.1",
"ipv4-subnet": "10.0.0.0/24",
"ipv4-routes": [
{"dst": "169.254.170.2/32"},
{"dst": "169.254.170.0/20", "gw": "10.0.0.1"}
]
}
}
CONF

# "Before running the command you should set up these environment variable".
export IPAM_DB_PATH="$2/db/eni-ipam.db"
export IPAM_DB_CONNECTION_TIMEOUT=10s
export CNI_PATH=`pwd`/bin
export CNI_IFNAME=eth0

exec 3>&1 > "$2/add.json"
export CNI_COMMAND=ADD && cat mynet.conf | ../bin/ecs-ipam
exec 1>&3
# In place of the README's "program to check the content of the db".
../bin/ecs-ipam list --json > "$2/list-after-add.json"

exec > "$2/del.json"
export CNI_COMMAND=DEL && cat mynet.conf | ../bin/ecs-ipam
exec 1>&3
../bin/ecs-ipam list --json > "$2/list-after-del.json"

unset CNI_COMMAND
../bin/ecs-ipam --capabilities > "$2/capabilities.json"
../bin/ecs-ipam --version > "$2/version.json"

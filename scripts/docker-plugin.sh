#!/usr/bin/env bash
# Makes the folder that `docker plugin create NAME FOLDER` takes: config.json, and a root file system
# with nothing in it but subletd. Swarm takes IPAM drivers as managed plugins alone.
#
#     scripts/docker-plugin.sh /tmp/sublet-plugin
#     mkdir -p /var/lib/cni/sublet
#     docker plugin create sublet:latest /tmp/sublet-plugin
#     docker plugin enable sublet:latest
#     docker network create --ipam-driver sublet:latest web
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1-}
if [ -z "$folder" ]; then
    echo "usage: scripts/docker-plugin.sh FOLDER" >&2
    exit 2
fi
[ -x bin/subletd ] || scripts/build.sh
mkdir -p "$folder/rootfs/run/docker/plugins" "$folder/rootfs/data" "$folder/rootfs/etc"
cp packaging/docker-plugin/config.json "$folder/config.json"
cp bin/subletd "$folder/rootfs/subletd"

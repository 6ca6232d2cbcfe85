#!/usr/bin/env bash
# Makes the folder for `docker plugin create NAME FOLDER`: config.json, and a root file system that
# contains only subletd. Swarm accepts IPAM drivers only as managed plugins.
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

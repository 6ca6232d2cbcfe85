#!/usr/bin/env bash
# Prints the path of a Consul 1.8.7 server for the tests. It is in Debian bullseye and in no later release.
# SUBLET_CONSUL names a different server program.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${SUBLET_CONSUL-}" ]; then
    echo "$SUBLET_CONSUL"
else
    scripts/e2e/unpack.sh bullseye consul usr/bin/consul
fi

#!/usr/bin/env bash
# Prints the path of a Consul 1.8.7 server for the tests. Of Debian's releases, only bullseye has it.
# SUBLET_CONSUL names another server program.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${SUBLET_CONSUL-}" ]; then
    echo "$SUBLET_CONSUL"
else
    scripts/e2e/unpack.sh bullseye consul usr/bin/consul
fi

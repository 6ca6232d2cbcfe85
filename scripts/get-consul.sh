#!/usr/bin/env bash
# Prints the path of a Consul server for the tests: the value of SUBLET_CONSUL if it is set, otherwise Consul
# 1.8.7 from bullseye, the only Debian release that has Consul.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${SUBLET_CONSUL-}" ]; then
    echo "$SUBLET_CONSUL"
else
    scripts/e2e/unpack.sh bullseye consul usr/bin/consul
fi

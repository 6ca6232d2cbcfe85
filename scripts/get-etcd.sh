#!/usr/bin/env bash
# Prints the path of an etcd 3.5 server for the tests, from Debian trixie. SUBLET_ETCD_35 names another program.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${SUBLET_ETCD_35-}" ]; then
    echo "$SUBLET_ETCD_35"
else
    scripts/e2e/unpack.sh trixie etcd-server usr/bin/etcd
fi

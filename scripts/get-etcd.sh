#!/usr/bin/env bash
# Prints the path of an etcd 3.5 server for the tests: the value of SUBLET_ETCD_35 if it is set, otherwise the
# server of Debian trixie.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${SUBLET_ETCD_35-}" ]; then
    echo "$SUBLET_ETCD_35"
else
    scripts/e2e/unpack.sh trixie etcd-server usr/bin/etcd
fi

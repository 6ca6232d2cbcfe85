#!/usr/bin/env bash
# Prints the mirror of Debian that this machine's apt uses, or fails if apt names none.
set -euo pipefail

mirror=$(find /etc/apt -name '*.sources' -o -name '*.list' | sort | xargs cat |
    sed -n -E 's/^(URIs: *|deb +(\[[^]]*\] +)?)([^ ]+\/debian)\/?( .*)?$/\3/p' | sed -n 1p)
if [ -z "$mirror" ]; then
    echo "mirror.sh: this machine's apt names no mirror of Debian" >&2
    exit 1
fi
echo "$mirror"

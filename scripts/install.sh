#!/usr/bin/env bash
# Installs bin/sublet in the folder in which runtimes look for plugins, and bin/subletd and a link to sublet
# in a folder on PATH. Accepts the options of `sublet install`, such as --to DIR and --as NAME. `sublet
# uninstall` undoes this.
set -euo pipefail

program=$(dirname "$0")/../bin/sublet
if [ ! -x "$program" ]; then
    echo "install.sh: $program is missing: run scripts/build.sh first" >&2
    exit 1
fi
exec "$program" install --to /opt/cni/bin --bin /usr/local/bin "$@"

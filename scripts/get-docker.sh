#!/usr/bin/env bash
# Prints the path of a root file system with the dockerd of a Debian release (trixie: 26.1, forky: 28.5), for
# the tests. The first call makes it with mmdebstrap, from the mirror that this machine's own apt uses.
# Nothing is installed on the machine itself.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=${1:?usage: scripts/get-docker.sh trixie|forky}
folder=${CARGO_TARGET_DIR:-target}/peers/docker
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
exec 9> "$folder/lock"
flock 9
if [ ! -d "$folder/$suite" ]; then
    {
        rm -rf "$folder/$suite.new"
        # If a release is not stable yet, its index may have expired.
        mmdebstrap --variant=apt --aptopt='Acquire::Check-Valid-Until "false"' \
            --include=docker.io,docker-cli,mount,iptables,iproute2,busybox-static,jq,curl,procps,iputils-ping \
            --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
            "$suite" "$folder/$suite.new" "$(scripts/e2e/mirror.sh)"
        mv "$folder/$suite.new" "$folder/$suite"
    } >&2
fi
echo "$folder/$suite"

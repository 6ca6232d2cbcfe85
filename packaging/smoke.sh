#!/usr/bin/env bash
# Runs the binaries of one architecture: an ADD, operator's commands, a DEL, and the status page. If the
# binaries are for another architecture, they run under qemu. Usage: smoke.sh ARCH BIN
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "smoke.sh: $*" >&2
    exit 1
}

if [ $# != 2 ]; then
    fail "usage: packaging/smoke.sh amd64|arm64 BIN"
fi
case $1 in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) fail "ARCH is $1, neither amd64 nor arm64" ;;
esac
bin=$2
run=()
if [ "$machine" != "$(uname -m)" ]; then
    run=("qemu-$machine-static")
    command -v "${run[0]}" > /dev/null || fail "${run[0]} is missing: install qemu-user-static"
fi

work=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill "$daemon"; wait; rm -rf "$work"' EXIT
export IPAM_DB_PATH=$work/leases.redb

sublet() {
    "${run[@]}" "$bin/sublet" "$@"
}

# cni COMMAND: calls the plugin for the container "one".
cni() {
    CNI_COMMAND=$1 CNI_CONTAINERID=one CNI_NETNS=/run/netns/one CNI_IFNAME=eth0 CNI_PATH=$bin sublet << END
{"cniVersion": "1.0.0", "name": "net", "type": "bridge",
 "ipam": {"type": "sublet", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64"}]], "persist": "disk"}}
END
}

# has WHAT TEXT PART: fails unless TEXT without white space contains PART.
has() {
    [[ $(tr -d ' \n' <<< "$2") == *"$3"* ]] || fail "$1: expected $3, found: $2"
}

file=$(LC_ALL=C readelf --file-header "$bin/sublet")
has "the binary's machine" "${file,,}" "${machine/_/-}"
sublet version
has ADD "$(cni ADD)" '"address":"10.1.2.2/24"'
has list "$(sublet list --json)" '"address":"fd00::2"'
cni DEL
has "list after the DEL" "$(sublet list --json)" '[]'
sublet doctor

"${run[@]}" "$bin/subletd" --http 127.0.0.1:0 --socket "$work/sublet.sock" --store "$IPAM_DB_PATH" 2> "$work/log" &
daemon=$!
for _ in $(seq 100); do
    at=$(sed -n 's|.*serving the status page at http://\([^/]*\)/.*|\1|p' "$work/log")
    [ -z "$at" ] || break
    sleep 0.1
done
exec 3<> "/dev/tcp/${at%:*}/${at##*:}" || fail "cannot serve the status page: $(cat "$work/log")"
printf 'GET /api/v1/pools HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$at" >&3
has "the daemon" "$(cat <&3)" HTTP/1.1200OK
echo "smoke.sh: $1 ran: ADD, list, DEL, doctor, subletd's page"

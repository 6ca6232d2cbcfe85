#!/usr/bin/env bash
# Draws docs/img/map.svg again: fills a network with leases in a temporary folder, and draws its map.
set -euo pipefail

cd "$(dirname "$0")/.."
sublet=${SUBLET:-$PWD/bin/sublet}
[ -x "$sublet" ] || scripts/build.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

conf() {
    printf '{"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "ipam": {"type": "sublet",
        "ranges": [[{"subnet": "10.77.0.0/22", "rangeStart": "10.77.0.4", "gateway": "10.77.0.1"}]],
        "exclude": ["10.77.1.128/27"], "cooldown": "1h", "dataDir": "%s"}}' "$work"
}

call() {
    conf | env CNI_COMMAND="$1" CNI_CONTAINERID="$2" CNI_NETNS=/var/run/netns/x CNI_IFNAME=eth0 \
        CNI_PATH=/opt/cni/bin "$sublet" > /dev/null
}

store=$work/leases.redb
for n in $(seq 1 560); do call ADD "web-$n"; done
"$sublet" reserve pods 10.77.3.192/27 --note printers --store "$store" > /dev/null
# Some of the containers have ended since.
for n in $(seq 3 7 200) $(seq 300 330) $(seq 520 560); do call DEL "web-$n"; done

mkdir -p docs/img
env LC_ALL=C.UTF-8 "$sublet" map pods --color always --width 80 --height 40 --store "$store" |
    cargo run --quiet --locked --example ansi_svg > "$work/map.svg"
mv "$work/map.svg" docs/img/map.svg
echo docs/img/map.svg

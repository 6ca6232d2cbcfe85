#!/usr/bin/env bash
# Builds sublet and leases addresses from the network configurations that containerd, podman and the
# ECS agent ship. Then twenty pods fill a range, a DEL is lost, the lease file is damaged and repaired, and the
# status page shows it all until Enter is pressed. Needs what build.sh needs, and no root; everything happens
# in a temporary folder.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/build.sh
sublet=$PWD/bin/sublet
subletd=$PWD/bin/subletd
work=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill "$daemon"; wait; rm -rf "$work"' EXIT

# All configurations lease from this file, whatever they name.
export IPAM_DB_PATH=$work/leases.redb
export CNI_PATH=$PWD/bin CNI_IFNAME=eth0

fail() {
    echo "demo: $*" >&2
    exit 1
}

# cni COMMAND CONTAINER CONFIGURATION: shows the call and its answer; the answer stays in $answer.
cni() {
    local env="CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2"
    echo
    echo "\$ $env sublet < $3"
    answer=$(env CNI_COMMAND="$1" CNI_CONTAINERID="$2" CNI_NETNS="/run/netns/$2" "$sublet" < "$3") ||
        fail "$1 failed: $answer"
    [ -z "$answer" ] || printf '%s\n' "$answer"
}

# answered TEXT: the answer has it, spaces apart.
answered() {
    local text
    text=$(tr -d ' \n' <<< "$answer")
    [[ $text == *"$1"* ]] || fail "$1 is missing in the answer"
}

operator() {
    echo
    echo "\$ sublet $*"
    "$sublet" "$@"
}

cd testdata/demo

cni ADD web containerd.json
answered '"address":"10.88.0.2/16","gateway":"10.88.0.1"'
answered '"address":"2001:4860:4860::2/64","gateway":"2001:4860:4860::1"'
answered '{"dst":"0.0.0.0/0"}'
cni ADD db containerd.json
answered '"address":"10.88.0.3/16"'
cni ADD web podman.json
answered '"version":"4"'
answered '"address":"10.89.0.2/24"'
cni ADD task ecs.json
answered '10.0.0.2/24'
answered '169.254.170.2/32'

operator list
rows=$("$sublet" list --json)
for address in 10.88.0.2 10.88.0.3 2001:4860:4860::2 10.89.0.2 10.0.0.2; do
    [[ $rows == *"\"$address\""* ]] || fail "$address is not listed"
done
operator show 10.88.0.3

# The same question gets the same answer: a runtime that was interrupted may ask again.
cni ADD web containerd.json
answered '"address":"10.88.0.2/16"'

cni CHECK web containerd.json
for container in web db; do
    cni DEL "$container" containerd.json
done
cni DEL web podman.json
cni DEL task ecs.json

operator list
# What the ECS dialect records of the gateway stays, as in the original.
rows=$("$sublet" list --json | tr -d ' \n')
[[ $rows != *'"kind":"dynamic"'* && $rows != *'"kind":"static"'* ]] || fail "leases are left: $rows"

# A range of twenty addresses for twenty-one pods.
call=(env CNI_COMMAND=ADD CNI_IFNAME=eth0)
for n in $(seq 20); do
    "${call[@]}" CNI_CONTAINERID="pod$n" CNI_NETNS="/run/netns/pod$n" \
        CNI_ARGS="K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-$n" "$sublet" < shop.json > "$work/answer" ||
        fail "no address for pod$n: $(cat "$work/answer")"
done
operator list --network shop
operator pools --network shop
echo
echo "\$ CNI_COMMAND=ADD CNI_CONTAINERID=pod21 sublet < shop.json"
if answer=$("${call[@]}" CNI_CONTAINERID=pod21 CNI_NETNS=/run/netns/pod21 "$sublet" < shop.json 2> /dev/null); then
    fail "a full range leased an address: $answer"
fi
printf '%s\n' "$answer"
answered '"code":100'

# The DEL of pod20 was lost; the runtime lists the containers that it knows.
cni GC - shop-gc.json
[[ $("$sublet" list --json) != *'"pod20"'* ]] || fail "the lease of pod20 is left"
operator history pod20

# Some bytes of a lease are overwritten wherever they are in the file.
while IFS=: read -r offset _; do
    printf XXXXX | dd of="$IPAM_DB_PATH" bs=1 seek="$offset" conv=notrunc status=none
done < <(grep --text --byte-offset --only-matching web-7 "$IPAM_DB_PATH")
if operator doctor; then
    fail "the damage was not found"
fi
operator doctor --repair --yes || true
# A pod whose lease could be read keeps its address.
pod=$("$sublet" list --network shop --json | sed -n 's/.*"containerID": *"\(pod[0-9]*\)".*/\1/p' | head -n 1)
[ -n "$pod" ] || fail "the repair read no lease"
cni ADD "$pod" shop.json
answered "\"address\":\"10.1.2.$((9 + ${pod#pod}))/24\""
operator list --network shop

"$subletd" --http 127.0.0.1:0 --socket "$work/sublet.sock" --store "$IPAM_DB_PATH" 2> "$work/log" &
daemon=$!
for _ in $(seq 100); do
    at=$(sed -n 's|.*the status page is at http://\([^/]*\)/.*|\1|p' "$work/log")
    [ -z "$at" ] || break
    sleep 0.1
done
exec 3<> "/dev/tcp/${at%:*}/${at##*:}" || fail "no status page: $(cat "$work/log")"
printf 'GET /api/v1/leases HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$at" >&3
[[ $(cat <&3) == *'"shop"'* ]] || fail "the status page knows no network shop"
exec 3<&-

echo
echo "demo: every answer was right"
echo "The status page: http://$at/"
if [ -t 0 ]; then
    read -r -p "Press Enter to end it and to remove everything. "
fi

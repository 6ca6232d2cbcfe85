#!/usr/bin/env bash
# Builds sublet, repairs a damaged lease file, and leases addresses with the network configurations that
# containerd, podman and the ECS agent ship. Needs the same programs as build.sh, and no root. Everything
# happens in a temporary folder.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/build.sh
sublet=$PWD/bin/sublet
subletd=$PWD/bin/subletd
work=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill "$daemon"; wait; rm -rf "$work"' EXIT

# All configurations use this lease file, even if they name another one.
export IPAM_DB_PATH=$work/leases.redb
export CNI_PATH=$PWD/bin CNI_IFNAME=eth0

fail() {
    echo "demo: $*" >&2
    exit 1
}

# cni COMMAND CONTAINER CONFIGURATION: prints the call and its result, and stores the result in $answer.
cni() {
    local env="CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2"
    echo
    echo "\$ $env sublet < $3"
    answer=$(env CNI_COMMAND="$1" CNI_CONTAINERID="$2" CNI_NETNS="/run/netns/$2" "$sublet" < "$3") ||
        fail "$1 failed: $answer"
    [ -z "$answer" ] || printf '%s\n' "$answer"
}

# answered TEXT: fails unless the result contains the text. White space is ignored.
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

# addresses: prints the leased addresses and their containers.
addresses() {
    "$sublet" list --json | grep -o '"address":"[^"]*"\|"containerID":"[^"]*"'
}

# damage FILE: overwrites the records of the container "web" until sublet reports damage. The file contains
# several copies of each record, because the database keeps old pages for a while, but only the current copy
# matters.
damage() {
    local offset offsets
    mapfile -t offsets < <(grep -abo web "$1" | cut -d : -f 1)
    for offset in "${offsets[@]}"; do
        dd if=/dev/urandom of="$1" bs=1 seek="$offset" count=64 conv=notrunc status=none
        "$sublet" list > /dev/null 2>&1 || return 0
    done
    fail "no damage was noticed"
}

cd testdata/demo

for container in web db cache; do
    cni ADD "$container" damage.json
done
operator list
before=$(addresses)
echo
echo "\$ dd if=/dev/urandom of=leases.redb ...       # overwrites a record with random bytes"
damage "$IPAM_DB_PATH"
if operator list; then
    fail "damage was read"
fi
operator doctor --repair --yes
operator list
[ "$(addresses)" = "$before" ] || fail "a lease was lost: $before"
for container in web db cache; do
    cni DEL "$container" damage.json
done

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

# A repeated ADD returns the same address, because a runtime that was interrupted may repeat a request.
cni ADD web containerd.json
answered '"address":"10.88.0.2/16"'

cni CHECK web containerd.json
for container in web db; do
    cni DEL "$container" containerd.json
done
cni DEL web podman.json
cni DEL task ecs.json

operator list
# In the ECS dialect, the gateway is recorded as a lease, as in the original ecs-ipam.
rows=$("$sublet" list --json | tr -d ' \n')
[[ $rows != *'"kind":"dynamic"'* && $rows != *'"kind":"static"'* ]] || fail "leases are left: $rows"

# There are twenty-one pods and twenty addresses.
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

# The DEL of pod20 was lost. A GC contains the list of containers that the runtime knows.
cni GC - shop-gc.json
[[ $("$sublet" list --json) != *'"pod20"'* ]] || fail "the lease of pod20 is left"
operator history pod20

cni ADD pod20 shop.json
answered '"address":"10.1.2.29/24"'

"$subletd" --http 127.0.0.1:0 --socket "$work/sublet.sock" --store "$IPAM_DB_PATH" 2> "$work/log" &
daemon=$!
for _ in $(seq 100); do
    at=$(sed -n 's|.*serving the status page at http://\([^/]*\)/.*|\1|p' "$work/log")
    [ -z "$at" ] || break
    sleep 0.1
done
exec 3<> "/dev/tcp/${at%:*}/${at##*:}" || fail "cannot serve the status page: $(cat "$work/log")"
printf 'GET /api/v1/leases HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$at" >&3
[[ $(cat <&3) == *'"shop"'* ]] || fail "the status page knows no network shop"
exec 3<&-

echo
echo "demo: every answer was right"
echo "The status page: http://$at/"
if [ -t 0 ]; then
    read -r -p "Press Enter to end it and to remove everything. "
fi

#!/usr/bin/env bash
# The configurations of cni-ipam-consul's README on a real Consul, at the address they name, in a
# network namespace of its own. Needs root; bin/sublet (or the path in SUBLET) must be built.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1-}" != inside ]; then
    consul=$(scripts/get-consul.sh)
    exec unshare --net "$0" inside "$consul"
fi
consul=$2
sublet=${SUBLET:-$PWD/bin/sublet}
work=$(mktemp -d)
ip link set lo up
"$consul" agent -dev -bind 127.0.0.1 > "$work/log" 2>&1 &
server=$!
trap 'kill "$server" 2> /dev/null || true; wait "$server" || true; rm -rf "$work"' EXIT
for _ in $(seq 100); do
    if curl -s 127.0.0.1:8500/v1/status/leader | grep -q :; then break; fi
    sleep 0.1
done

fail() {
    echo "e2e-consul.sh: $*" >&2
    exit 1
}
# plugin COMMAND CONTAINER CONFIGURATION
plugin() {
    CNI_COMMAND=$1 CNI_CONTAINERID=$2 "$sublet" <<< "$3"
}
field() {
    jq -r "$1" <<< "$2"
}

# As that README prints them.
default=$(< testdata/consul/default.json)
ipv6=$(< testdata/consul/ipv6.json)
ipv4=$(< testdata/consul/ipv4.json)
id=f81d4fae-7dec-11d0-a765-00a0c91e6bf6

first=$(plugin ADD "$id" "$default")
[[ $(field .ip4.ip "$first") == 203.0.113.*/24 ]] || fail "default: $first"
# Its README's .1 is out of date: that is the gateway.
[ "$(field .ip4.ip "$first")" != 203.0.113.1/24 ] || fail "the gateway's address was given"
[ "$(plugin ADD "$id" "$default")" = "$first" ] || fail "a repeated ADD gets another address"
six=$(plugin ADD "$id" "$ipv6")
[[ $(field .ip6.ip "$six") =~ ^3ffe:ffff:0:1ff::(1[0-9a-f]|20)/64$ ]] || fail "ipv6: $six"
for i in $(seq 11); do
    four=$(plugin ADD "c$i" "$ipv4")
    [[ $(field .ip4.ip "$four") =~ ^203\.0\.113\.(1[0-9]|20)/24$ ]] || fail "ipv4: $four"
done
if full=$(plugin ADD c12 "$ipv4"); then fail "a full range gives $full"; fi
[ "$(field .code "$full")" = 100 ] || fail "full: $full"
echo "ok: the README's configurations"

store='{"consul": {}}'
[ "$("$sublet" --store "$store" list --json | jq length)" = 13 ] || fail "13 leases are not listed"
NODE_ID=elsewhere "$sublet" --store "$store" release c11 --yes > /dev/null
plugin ADD c12 "$ipv4" > /dev/null
curl -s '127.0.0.1:8500/v1/kv/sublet/own/?keys' | jq -r '.[]' | grep -q "/cni/default/$id" ||
    fail "no readable key of $id"
echo "ok: list, and release from another node"

plugin DEL "$id" "$default"
plugin DEL "$id" "$default"
plugin DEL never-seen "$default"
plugin DEL "$id" "$ipv6"
for i in $(seq 12); do plugin DEL "c$i" "$ipv4"; done
# What stays: that there was nothing to take over from cni-ipam-consul.
left=$(curl -s '127.0.0.1:8500/v1/kv/sublet/?keys' | jq -r '.[]' | grep -v -e /adopted/ -e /old/ || true)
[ -z "$left" ] || fail "keys are left: $left"
echo "ok: DEL leaves no key"

# Four nodes at once: every address once.
pids=()
for node in a b c d; do
    for i in $(seq 25); do
        NODE_ID=$node plugin ADD "$node-$i" "$default" > "$work/$node-$i" &
        pids+=($!)
    done
done
for pid in "${pids[@]}"; do wait "$pid" || fail "an ADD of a hundred at once failed"; done
given=$(jq -r .ip4.ip "$work"/?-* | sort -u | wc -l)
[ "$given" = 100 ] || fail "$given addresses for 100 containers"
echo "ok: a hundred ADDs of four nodes at once"

kill "$server"
wait "$server" || true
begin=$SECONDS
if down=$(plugin ADD late "$default"); then fail "no server, and: $down"; fi
[ "$(field .code "$down")" = 11 ] || fail "no server: $down"
[ $((SECONDS - begin)) -le 6 ] || fail "$((SECONDS - begin)) s to find that out"
echo "ok: without a server ADD is error 11"

#!/usr/bin/env bash
# Runs three Consul servers and four hosts, each in a network namespace of its own. The containers of all
# hosts must reach each other. While many clients run, servers are killed, paused and cut off; then the
# histories of the clients are checked. Afterwards, the configurations in the README of cni-ipam-consul run
# unchanged with a single server. Needs root; bin/sublet must be built. Installs missing packages. The
# argument is the number of seconds for which the clients run.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/e2e/common.sh
source scripts/e2e/common.sh
# shellcheck source=scripts/e2e/cluster.sh
source scripts/e2e/cluster.sh
if [ "${1-}" != inside ]; then
    need jq=jq curl=curl ip=iproute2 ping=iputils-ping
    consistency=$(built)
    enter "$consistency" "${1-30}" "$(scripts/get-consul.sh)"
fi
consul=$5

launch() {
    ip netns exec "s$1" "$consul" agent -server -bootstrap-expect=3 -node "s$1" \
        -bind "10.99.0.2$1" -client "10.99.0.2$1" -data-dir "$work/m$1" \
        -retry-join 10.99.0.21 -retry-join 10.99.0.22 -retry-join 10.99.0.23 -retry-interval 1s \
        -hcl 'performance { raft_multiplier = 1 }' -hcl 'autopilot { cleanup_dead_servers = false }' \
        >> "$work/m$1.log" 2>&1 &
    pid[$1]=$!
}
leader() {
    local i address
    for i in $servers; do
        # A server that is cut off may still report the former leader.
        address=$(curl -s -m 1 "http://10.99.0.2$i:8500/v1/status/leader") || continue
        case $address in
            *10.99.0.2?:*)
                address=${address#*10.99.0.2}
                echo "${address%%:*}"
                return
                ;;
        esac
    done
}
store() {
    jq -cn --arg timeout "${timeout}s" '{consul: {endpoints: ["http://10.99.0.21:8500",
        "http://10.99.0.22:8500", "http://10.99.0.23:8500"], timeout: $timeout}}'
}
keys() {
    curl -sf -m 5 "http://10.99.0.2$(leader):8500/v1/kv/sublet/?keys" |
        jq -r '.[] | ltrimstr("sublet/")'
}
alone() {
    "$consul" agent -server -bootstrap-expect=1 -node alone -bind 127.0.0.1 -data-dir "$1" \
        -hcl 'performance { raft_multiplier = 1 }' >> "$work/alone.log" 2>&1 &
    pid[alone]=$!
}
alone_store() {
    echo "{\"consul\": {\"timeout\": \"${timeout}s\"}}"
}
stuff() {
    head -c 500000 /dev/urandom | curl -sf -m 5 -T - "http://127.0.0.1:8500/v1/kv/stuff/$1"
}

own_folders
plugins bridge

# Test the configurations in the README.
mkdir "$work/readme"
alone "$work/readme"
plugin() {
    CNI_COMMAND=$1 CNI_CONTAINERID=$2 /opt/cni/bin/sublet <<< "$3"
}
field() {
    jq -r "$1" <<< "$2"
}
has_leader() {
    curl -s 127.0.0.1:8500/v1/status/leader | grep -q :
}
until_true 30 "a server alone" has_leader

# The result must equal the one that the README prints.
default=$(< testdata/consul/default.json)
ipv6=$(< testdata/consul/ipv6.json)
ipv4=$(< testdata/consul/ipv4.json)
id=f81d4fae-7dec-11d0-a765-00a0c91e6bf6

first=$(plugin ADD "$id" "$default")
[[ $(field .ip4.ip "$first") == 203.0.113.*/24 ]] || fail "default: $first"
# In the README this address ends in .1, but that is the gateway.
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

here='{"consul": {}}'
seen=$(/opt/cni/bin/sublet --store "$here" list --json | jq length)
[ "$seen" = 13 ] || fail "$seen leases are listed, not 13"
NODE_ID=elsewhere /opt/cni/bin/sublet --store "$here" release c11 --yes > /dev/null
plugin ADD c12 "$ipv4" > /dev/null
curl -s '127.0.0.1:8500/v1/kv/sublet/own/?keys' | jq -r '.[]' | grep -q "/cni/default/$id" ||
    fail "no readable key of $id"

plugin DEL "$id" "$default"
plugin DEL "$id" "$default"
plugin DEL never-seen "$default"
plugin DEL "$id" "$ipv6"
for i in $(seq 12); do plugin DEL "c$i" "$ipv4"; done
# These records are permanent: the node, the name of the node by machine-id, and the record that
# cni-ipam-consul had no leases to import.
left=$(curl -s '127.0.0.1:8500/v1/kv/sublet/?keys' | jq -r '.[]' |
    grep -v -e ^sublet/node/ -e ^sublet/machine/ -e ^sublet/adopted/ -e ^sublet/old/ -e ^sublet/ranges/ -e ^sublet/past/ || true)
[ -z "$left" ] || fail "keys are left: $left"

# Four nodes lease at the same time. Each address must be leased only once.
pids=()
for node in a b c d; do
    for i in $(seq 25); do
        NODE_ID=$node plugin ADD "$node-$i" "$default" > "$work/readme-$node-$i" &
        pids+=($!)
    done
done
for pid in "${pids[@]}"; do wait "$pid" || fail "an ADD of a hundred at once failed"; done
given=$(jq -r .ip4.ip "$work"/readme-* | sort -u | wc -l)
[ "$given" = 100 ] || fail "$given addresses for 100 containers"

# cni-ipam-consul is replaced on all nodes at once. It has stored one key for each lease.
old_lease() {
    curl -s -X PUT --data "{\"ip\":\"$2\",\"mac\":\"00:00:00:00:00:00\",\"id\":\"$3\"}" \
        "127.0.0.1:8500/v1/kv/$1/$2" > /dev/null
}
named() {
    jq -c --arg name "$1" "${2-.} | .name = \$name" testdata/consul/ipv4.json
}
for i in 10 11 12; do old_lease moved "203.0.113.$i" "old-$i"; done
if full=$(plugin ADD new "$(named moved)"); then fail "an ADD before the import gives $full"; fi
[ "$(field .code "$full")" = 11 ] || fail "before the import: $full"
if plugin DEL old-10 "$(named moved)" > /dev/null; then fail "a DEL before the import loses a lease"; fi
/opt/cni/bin/sublet --store "$here" import consul moved > /dev/null
plugin DEL old-10 "$(named moved)"
[ "$(field .ip4.ip "$(plugin ADD old-11 "$(named moved)")")" = 203.0.113.11/24 ] ||
    fail "a container of the old plugin gets another address"
moved=()
for i in $(seq 9); do moved+=("$(field .ip4.ip "$(plugin ADD "m$i" "$(named moved)")")"); done
[ "$(printf '%s\n' "${moved[@]}" 203.0.113.11/24 203.0.113.12/24 | sort -u | wc -l)" = 11 ] ||
    fail "an address was leased twice: ${moved[*]}"

# cni-ipam-consul is replaced node by node. It keeps the first half of the range. Replaced nodes have a new
# network name and the second half. After the last node, they get the whole range.
for i in 10 11; do old_lease rolling "203.0.113.$i" "old-$i"; done
half=$(named rolled '.ipam["range-start"] = "203.0.113.15"')
for i in 1 2; do plugin ADD "r$i" "$half" > "$work/rolled-$i"; done
old_lease rolling 203.0.113.12 old-12
plugin ADD r3 "$half" > "$work/rolled-3"
curl -s -X DELETE "127.0.0.1:8500/v1/kv/rolling/?recurse" > /dev/null
for i in $(seq 4 11); do plugin ADD "r$i" "$(named rolled)" > "$work/rolled-$i"; done
[ "$(jq -r .ip4.ip "$work"/rolled-* | sort -u | wc -l)" = 11 ] || fail "the whole range has 11 addresses"
for i in 1 2 3; do
    [[ $(jq -r .ip4.ip "$work/rolled-$i") =~ ^203\.0\.113\.(1[5-9]|20)/24$ ]] ||
        fail "a replaced node uses the old plugin's half"
done
row "cni-ipam-consul is replaced" "all nodes at once, node by node"

halt alone
if down=$(plugin ADD late "$default"); then fail "no server, and: $down"; fi
[ "$(field .code "$down")" = 11 ] || fail "no server: $down"
row "the README's configurations" "IPv4, IPv6, a hundred at once"

lay_out
conf=$(conf)
until_true 60 "a leader" steady
talk
befall
judged "$4"
pools_judged 25
noticed '{"consul": {"endpoints": ["http://10.99.0.1:9999"], "prefix": "blind"}}' "10.99.0.2$(leader):8500"
filled
table

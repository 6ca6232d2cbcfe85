#!/usr/bin/env bash
# Three members of etcd and three nodes, each in a network namespace of its own on one bridge: members
# are killed and paused, a node is cut off. Needs root and etcd; bin/sublet (or the path in SUBLET) must
# be built, and sublet-cluster beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1-}" != inside ]; then
    exec unshare --net --mount "$0" inside
fi
sublet=${SUBLET:-$PWD/bin/sublet}
work=$(mktemp -d)
declare -A pid
# `ip netns` keeps its names here; the machine's own stay out of sight.
mount -t tmpfs none /run
clean() {
    local one
    for one in "${pid[@]}"; do
        # A stopped process is killed all the same.
        kill -KILL "$one" 2> /dev/null || true
        wait "$one" 2> /dev/null || true
    done
    rm -rf "$work"
}
trap clean EXIT

fail() {
    echo "e2e-etcd.sh: $*" >&2
    exit 1
}

ip link set lo up
ip link add net0 type bridge
ip link set net0 up
ip addr add 10.99.0.1/24 dev net0
for i in 1 2 3; do
    ip netns add "n$i"
    ip link add "v$i" type veth peer name eth0 netns "n$i"
    ip link set "v$i" master net0 up
    ip -n "n$i" addr add "10.99.0.1$i/24" dev eth0
    ip -n "n$i" link set eth0 up
    ip addr add "10.99.0.2$i/24" dev net0
done

member() {
    etcd --name "m$1" --data-dir "$work/m$1" --listen-client-urls "http://10.99.0.2$1:2379" \
        --advertise-client-urls "http://10.99.0.2$1:2379" --listen-peer-urls "http://10.99.0.2$1:2380" \
        --initial-advertise-peer-urls "http://10.99.0.2$1:2380" --initial-cluster \
        m1=http://10.99.0.21:2380,m2=http://10.99.0.22:2380,m3=http://10.99.0.23:2380 \
        >> "$work/m$1.log" 2>&1 &
    pid[$1]=$!
}
for i in 1 2 3; do member "$i"; done
cluster='{"etcd": {"endpoints": ["http://10.99.0.21:2379", "http://10.99.0.22:2379", "http://10.99.0.23:2379"], "timeout": "3s"}}'
conf='{"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": {"type": "sublet", "subnet": "10.1.0.0/24", "store": '$cluster'}}'

# plugin NODE COMMAND CONTAINER
plugin() {
    NODE_ID=$1 CNI_COMMAND=$2 CNI_CONTAINERID=$3 CNI_NETNS=/run/x CNI_IFNAME=eth0 CNI_PATH=/x \
        ip netns exec "n$1" "$sublet" <<< "$conf"
}
for _ in $(seq 100); do
    if plugin 1 ADD ready > /dev/null 2>&1 && plugin 1 DEL ready; then break; fi
    sleep 0.1
done
# added FIRST LAST: each node adds containers of its own, all at once.
added() {
    local node i waiting=()
    for node in 1 2 3; do
        for i in $(seq "$1" "$2"); do
            plugin "$node" ADD "c-$node-$i" > "$work/add-$node-$i" &
            waiting+=($!)
        done
    done
    for one in "${waiting[@]}"; do wait "$one" || fail "an ADD failed: $(cat "$work"/add-* | grep -m1 msg)"; done
}
all_differ() {
    local given
    given=$(jq -r '.ips[0].address' "$work"/add-* | sort -u | wc -l)
    [ "$given" = "$1" ] || fail "$given addresses for $1 containers"
    given=$("$sublet" --store "$cluster" list --json | jq length)
    [ "$given" = "$1" ] || fail "$given leases are listed, not $1"
}

added 1 10
all_differ 30
echo "ok: thirty ADDs of three nodes at once"

kill -KILL "${pid[1]}"
wait "${pid[1]}" 2> /dev/null || true
added 11 15
all_differ 45
echo "ok: a member is killed"
member 1
sleep 2

kill -STOP "${pid[2]}"
added 16 18
all_differ 54
kill -CONT "${pid[2]}"
echo "ok: a member is paused"

kill -STOP "${pid[1]}" "${pid[2]}"
begin=$(date +%s%N)
if alone=$(plugin 3 ADD lost); then fail "without a majority: $alone"; fi
took=$((($(date +%s%N) - begin) / 1000000))
[ "$(jq .code <<< "$alone")" = 11 ] || fail "without a majority: $alone"
[ "$took" -le 4000 ] || fail "$took ms for a timeout of 3 s"
kill -CONT "${pid[1]}" "${pid[2]}"
echo "ok: without a majority ADD is error 11, after $took ms"

for _ in $(seq 50); do
    back=$(plugin 3 ADD lost) && break
    sleep 0.2
done
[ "$(plugin 3 ADD lost)" = "$back" ] || fail "the repeated ADD gets another address"
plugin 3 DEL lost
all_differ 54
echo "ok: the ADD that was lost is found again, once"

ip link set v2 down
if cut=$(plugin 2 ADD cut); then fail "cut off: $cut"; fi
[ "$(jq .code <<< "$cut")" = 11 ] || fail "cut off: $cut"
plugin 1 ADD c-1-99 > "$work/add-1-99"
ip link set v2 up
for node in 1 2 3; do
    for i in {1..18} 99; do
        for _ in $(seq 20); do
            if plugin "$node" DEL "c-$node-$i"; then break; fi
            sleep 0.2
        done
    done
done
plugin 2 DEL cut
[ "$("$sublet" --store "$cluster" list --json | jq length)" = 0 ] || fail "leases are left"
echo "ok: a node is cut off; at the end nothing is left"

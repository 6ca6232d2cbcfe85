#!/usr/bin/env bash
# Runs Debian's containerd and runc with the plugins bridge, sublet and portmap (`ctr run --cni`). Ten
# dual-stack containers reach each other, the addresses of a container are released when it ends, and 200
# rounds of create and delete leave no lease. scripts/e2e-cri.sh tests containerd through the CRI, as a
# kubelet uses it.
#
# Everything happens in separate namespaces, on copies of /etc, /run, /var/lib and /opt, and ends with the
# script. Needs root; installs missing Debian packages.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/e2e/common.sh
source scripts/e2e/common.sh
# shellcheck source=scripts/e2e/containerd.sh
source scripts/e2e/containerd.sh

if [ "${1-}" != inside ]; then
    need "${containerd_needs[@]}"
    [ -x bin/sublet ] || scripts/build.sh
    enter "$@"
fi
containerd_folders '{}'
containerd_starts
ctr image import --snapshotter native "$work/image.tar" > /dev/null

# run CONTAINER COMMAND ...: runs a container in the foreground. Its addresses are released when it ends. This
# version of ctr does not release the addresses of a detached container.
run() {
    ctr run --snapshotter native --cgroup "/$cgroup/$1" --rm --cni "$image" "$@"
}

running() {
    [ "$(ctr task ls | grep -c RUNNING)" = "$1" ]
}

count=10
runs=()
for n in $(seq $count); do
    run "c$n" sleep 1000000 > "$work/c$n.log" 2>&1 &
    runs+=($!)
done
until_true 60 "$count containers run" running $count
[ "$(leases | jq length)" = $((2 * count)) ] || fail "not two leases each: $(leases)"
[ "$(leases | jq '[.[].address] | unique | length')" = $((2 * count)) ] || fail "held twice: $(leases)"
row "containers started at once" "$count, $((2 * count)) leases"

reached=0
for n in $(seq $count); do
    mapfile -t own < <(addresses "default-c$n")
    shown=$(ctr task exec --exec-id ip "c$n" ip -o address show dev eth0 scope global)
    for address in "${own[@]}"; do
        [[ $shown == *" $address/"* ]] || fail "c$n does not have its lease $address: $shown"
    done
    for address in $(addresses "default-c$((n % count + 1))"); do
        ctr task exec --exec-id ping "c$n" ping -q -c 1 -W 5 "$address" > "$work/ping" 2>&1 ||
            fail "c$n does not reach $address: $(cat "$work/ping")"
        reached=$((reached + 1))
    done
done
row "each pings the next over IPv4 and IPv6" "$reached of $((2 * count)) answered"

for n in $(seq $count); do
    ctr task kill -s KILL "c$n"
    # ctr exits with the exit code of its container.
    wait "${runs[n - 1]}" || [ $? = 137 ] || fail "c$n: $(cat "$work/c$n.log")"
    [ -z "$(addresses "default-c$n")" ] || fail "c$n is gone and has a lease: $(leases)"
done
no_leases "all killed"
no_links "all killed"
row "killed and deleted" "no lease, no link"

rounds=200
workers=4
round() {
    local n
    for n in $(seq $((rounds / workers))); do
        run "r$1-$n" true > "$work/r$1.log" 2>&1 || fail "round $n of $1: $(cat "$work/r$1.log")"
    done
}
runs=()
for n in $(seq $workers); do
    round "$n" &
    runs+=($!)
done
for pid in "${runs[@]}"; do
    wait "$pid" || fail "a round failed"
done
no_leases "after $rounds rounds"
no_links "after $rounds rounds"
# The address of the last container shows that round robin leased a new address in every round.
run last sleep 1000000 > "$work/last.log" 2>&1 &
until_true 30 "one more runs" running 1
address=$(addresses default-last | head -n 1)
expected=10.77.0.$(((count + rounds) % 253 + 2))
[ "$address" = "$expected" ] || fail "the next address is $address, not $expected: rounds had none"
ctr task kill -s KILL last
wait $! || true
no_leases "the last"
row "rounds of create and delete, $workers at once" "$rounds, no lease left"
containerd_ends TERM
table

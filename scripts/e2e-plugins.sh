#!/usr/bin/env bash
# Runs Debian's bridge, ptp and macvlan with sublet as their IPAM plugin. Containers (network namespaces) ping
# each other over IPv4 and IPv6, a DEL leaves nothing behind, and a failed ADD leaves no lease. Then tests CNI
# 1.1.0 with GC and STATUS through examples/delegate.rs.
#
# Everything happens in a separate network namespace and mount namespace, which end with the script. Needs
# root, or user namespaces.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "e2e-plugins: $*" >&2
    exit 1
}

plugins=/usr/lib/cni
if [ "${1-}" != inside ]; then
    for tool in ip ping jq unshare; do
        command -v "$tool" > /dev/null || fail "$tool is missing"
    done
    for plugin in bridge ptp macvlan host-local; do
        [ -x "$plugins/$plugin" ] ||
            fail "$plugins/$plugin is missing: apt-get install containernetworking-plugins"
    done
    [ -x bin/sublet ] || scripts/build.sh
    cargo build --locked --example delegate
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/cni"
    for plugin in bridge ptp macvlan; do
        ln -s "$plugins/$plugin" "$work/cni/$plugin"
    done
    # Install sublet under its own name, and under the name host-local.
    cp bin/sublet "$work/cni/sublet"
    ln -s sublet "$work/cni/host-local"
    cp "${CARGO_TARGET_DIR:-target}/debug/examples/delegate" "$work/cni/delegate"
    user=()
    [ "$(id -u)" = 0 ] || user=(--map-root-user)
    unshare "${user[@]}" --net --mount --propagation private "$PWD/scripts/e2e-plugins.sh" inside "$work"
    exit
fi

work=$2
cni_path=$work/cni
sublet=$cni_path/sublet
# `ip netns` stores names here. This tmpfs hides the names of the machine's own namespaces.
mount -t tmpfs none /run
ip link set lo up

# Duplicate address detection would delay each IPv6 address.
quick() {
    # shellcheck disable=SC2016
    "$@" sh -c 'for f in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 > "$f"; done'
}
quick env
for container in c1 c2 c3; do
    ip netns add "$container"
    quick ip netns exec "$container"
done

# cni COMMAND CONTAINER CONFIGURATION [IFNAME]: prints the result.
cni() {
    local type
    type=$(jq -r .type <<< "$3")
    env -i PATH="$PATH" CNI_COMMAND="$1" CNI_CONTAINERID="$2" CNI_NETNS="/run/netns/$2" \
        CNI_IFNAME="${4-eth0}" CNI_PATH="$cni_path" "$cni_path/$type" <<< "$3"
}

# must COMMAND ...: like cni, but the call must succeed.
must() {
    cni "$@" || fail "$1 $2 failed"
}

# refused CODE COMMAND ...: like cni, but the call must fail with this code. CODE is "any" if the main plugin
# reports the error.
refused() {
    local expected=$1 answer code
    shift
    if answer=$(cni "$@"); then
        fail "$1 $2 succeeded: $answer"
    fi
    code=$(jq -er .code <<< "$answer") || fail "$1 $2: not an error: $answer"
    [ "$expected" = any ] || [ "$code" = "$expected" ] || fail "$1 $2: $answer"
}

leases() {
    "$sublet" list --json --store "$work/data/leases.redb"
}

no_leases() {
    [ "$(leases | jq length)" = 0 ] || fail "$1: leases are left: $(leases)"
}

# Checks that no interface of a container is left, neither on the host nor in the container.
no_links() {
    local left container
    left=$(ip -o link show type veth | grep -v uplink || true)
    [ -z "$left" ] || fail "$1: links are left: $left"
    for container in c1 c2 c3; do
        left=$(ip -n "$container" -o link show | grep -v -E ': (lo|sit0|tunl0|ip6tnl0)[@:]' || true)
        [ -z "$left" ] || fail "$1: links are left in $container: $left"
    done
}

# address RESULT N: prints the N-th address without its prefix length.
address() {
    jq -r ".ips[$2].address | split(\"/\")[0]" <<< "$1"
}

reaches() {
    ip netns exec "$1" ping -q -c 3 -i 0.2 -W 5 "$2" > /dev/null || fail "$1 does not reach $2: $3"
}

# network NAME TYPE IPAM EXTRA: prints a dual-stack configuration.
network() {
    jq -n --arg name "$1" --arg type "$2" --arg ipam "$3" --arg data "$work/data" \
        --argjson extra "$4" '{
            cniVersion: "1.0.0", name: $name, type: $type,
            ipam: {
                type: $ipam, dataDir: $data,
                ranges: [[{subnet: "10.77.0.0/24"}], [{subnet: "fd77::/64"}]],
                routes: [{dst: "0.0.0.0/0"}, {dst: "::/0"}]
            }
        } + $extra'
}

# Two containers get addresses, reach each other, are checked and deleted.
round() {
    local conf=$1 what=$2 first second n
    first=$(must ADD c1 "$conf")
    second=$(must ADD c2 "$conf")
    [ "$(jq '.ips | length' <<< "$first")" = 2 ] || fail "$what: not dual stack: $first"
    [ "$(leases | jq length)" = 4 ] || fail "$what: not four leases: $(leases)"
    for n in 0 1; do
        reaches c1 "$(address "$second" $n)" "$what"
        reaches c2 "$(address "$first" $n)" "$what"
    done
    first=$(jq --argjson r "$first" '. + {prevResult: $r}' <<< "$conf")
    second=$(jq --argjson r "$second" '. + {prevResult: $r}' <<< "$conf")
    must CHECK c1 "$first"
    must CHECK c2 "$second"
    # Show that CHECK can fail: check c1 against the result of c2.
    refused any CHECK c1 "$second"
    must DEL c1 "$first"
    must DEL c2 "$second"
    # A runtime may repeat the DEL.
    must DEL c2 "$second"
    no_leases "$what"
    no_links "$what"
    echo "$what: ok"
}

# Checks that an ADD leaves no lease if it fails before, inside or after the IPAM plugin.
failures() {
    local conf=$1 what=$2 bad
    # Fail before the IPAM plugin: first the network namespace does not exist, then the interface name is
    # already in use.
    ip netns add gone
    ip netns del gone
    refused any ADD gone "$conf"
    no_leases "$what, no namespace"
    ip -n c3 link add taken type veth peer name other
    refused any ADD c3 "$conf" taken
    ip -n c3 link del taken
    must DEL c3 "$conf" taken
    no_leases "$what, name taken"
    # Fail after the IPAM plugin: the gateway of a route is unreachable. The main plugin releases the lease
    # itself.
    bad=$(jq '.ipam.routes = [{dst: "192.0.2.0/24", gw: "198.51.100.1"}]' <<< "$conf")
    refused any ADD c3 "$bad"
    no_leases "$what, unreachable route"
    must DEL c3 "$bad"
    # Fail inside the IPAM plugin: the second range set is full, so the address from the first range set must
    # be released too.
    bad=$(jq '.ipam.ranges[1] = [{subnet: "fd77::/64", rangeStart: "fd77::2", rangeEnd: "fd77::2"}]' \
        <<< "$conf")
    must ADD c1 "$bad" > /dev/null
    refused 100 ADD c2 "$bad"
    [ "$(leases | jq -c '[.[].containerID] | unique')" = '["c1"]' ] ||
        fail "$what, full: $(leases)"
    must DEL c2 "$bad"
    must DEL c1 "$bad"
    no_leases "$what, full"
    no_links "$what, failures"
    echo "$what, failures: ok"
}

for ipam in sublet host-local; do
    bridge=$(network br bridge $ipam '{"bridge": "br0", "isGateway": true}')
    round "$bridge" "bridge with $ipam"
    failures "$bridge" "bridge with $ipam"
    ip link del br0

    ptp=$(network p2p ptp $ipam '{}')
    round "$ptp" "ptp with $ipam"
    failures "$ptp" "ptp with $ipam"

    ip link add uplink0 type veth peer name uplink1
    ip link set uplink0 up
    ip link set uplink1 up
    quick env
    macvlan=$(network mv macvlan $ipam '{"master": "uplink0", "mode": "bridge"}')
    # There is no host behind the uplink, so the routes through the gateway are not used.
    round "$macvlan" "macvlan with $ipam"
    failures "$macvlan" "macvlan with $ipam"
    ip link del uplink0
done

# Test CNI 1.1.0 with GC and STATUS, which Debian's plugins do not support yet.
delegate=$(network del delegate sublet '{"cniVersion": "1.1.0"}')
delegate=$(jq '.ipam.ranges[0] = [{subnet: "10.77.0.0/30"}] | .ipam.statusWhenFull = "fail"' \
    <<< "$delegate")
must STATUS c1 "$delegate"
first=$(must ADD c1 "$delegate")
[ "$(jq -r .cniVersion <<< "$first")" = 1.1.0 ] || fail "not a 1.1.0 result: $first"
must CHECK c1 "$(jq --argjson r "$first" '. + {prevResult: $r}' <<< "$delegate")"
refused 50 STATUS c1 "$delegate"
refused 7 GC c1 "$delegate"
[ "$(leases | jq length)" = 2 ] || fail "a GC without its list freed something: $(leases)"
must GC c1 "$(jq '."cni.dev/valid-attachments" = [{containerID: "c1", ifname: "eth0"}]' <<< "$delegate")"
[ "$(leases | jq length)" = 2 ] || fail "GC freed what is valid: $(leases)"
must GC c1 "$(jq '."cni.dev/valid-attachments" = []' <<< "$delegate")"
no_leases "GC"
must STATUS c1 "$delegate"
echo "delegation at 1.1.0: ok"

echo "e2e-plugins: everything passed"

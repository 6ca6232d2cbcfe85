#!/usr/bin/env bash
# Runs two hosts and one etcd. Each host has a real dockerd (Debian's docker.io) and its own subletd. Both
# hosts share a macvlan network through kontena-ipam's option `network`. At the end, no address may be leased.
#
# Each host consists of a network namespace and a mount namespace. Two bridges connect the hosts: one for
# etcd, one for the containers. All of this ends with the script. Needs root; bin/sublet and bin/subletd (or
# the paths in SUBLET and SUBLETD) must be built.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/e2e/common.sh
source scripts/e2e/common.sh

fail() {
    echo "e2e-docker-cluster: $*" >&2
    if [ -n "${work-}" ]; then
        tail -n 25 "$work"/*.log >&2 || true
    fi
    exit 1
}

# host NAME NUMBER: runs the daemons of one host in the host's namespaces. The daemons end with the
# namespaces.
if [ "${1-}" = host ]; then
    work=$2
    name=$3
    subletd=$4
    mount -t tmpfs none /run
    mkdir -p /run/docker/plugins /run/lock
    mount -t tmpfs none /etc/docker
    ETCD_ENDPOINT=http://10.99.0.1:2379 NODE_ID=$name "$subletd" --log-level debug \
        --socket /run/docker/plugins/kontena-ipam.sock \
        --address-spaces kontenalocal,kontenaglobal >> "$work/subletd-$name.log" 2>&1 &
    until [ -S /run/docker/plugins/kontena-ipam.sock ]; do sleep 0.05; done
    exec dockerd --data-root "$work/docker-$name" --exec-root /run/docker-exec \
        --pidfile /run/docker.pid -H "unix://$work/$name.sock" --bridge none --storage-driver vfs \
        --userland-proxy=false >> "$work/dockerd-$name.log" 2>&1
fi

if [ "${1-}" != inside ]; then
    [ "$(id -u)" = 0 ] || fail "run it as root: dockerd needs it"
    for tool in dockerd docker containerd runc busybox unshare ip iptables jq etcd; do
        command -v "$tool" > /dev/null ||
            fail "$tool is missing: apt-get install docker.io busybox-static iptables iproute2 jq etcd-server"
    done
    if [ ! -x "${SUBLETD:-bin/subletd}" ]; then scripts/build.sh; fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # If process 1 of the PID namespace is killed, all its other processes end.
    unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
        "$PWD/scripts/e2e-docker-cluster.sh" inside "$work" \
        "${SUBLET:-$PWD/bin/sublet}" "${SUBLETD:-$PWD/bin/subletd}"
    echo "e2e-docker-cluster: everything passed in $SECONDS s"
    exit
fi

work=$2
sublet=$3
subletd=$4
mount -t tmpfs none /run
mkdir -p /etc/docker
mount -t cgroup2 none /sys/fs/cgroup 2> /dev/null || true
ip link set lo up
# The network of the hosts, and the network of their containers.
for bridge in lan wire; do
    ip link add "$bridge" type bridge
    ip link set "$bridge" up
done
ip addr add 10.99.0.1/24 dev lan
for n in 1 2; do
    ip netns add "h$n"
    ip link add "lan$n" type veth peer name eth0 netns "h$n"
    ip link set "lan$n" master lan up
    ip link add "wire$n" type veth peer name mac0 netns "h$n"
    ip link set "wire$n" master wire up
    ip -n "h$n" link set lo up
    ip -n "h$n" addr add "10.99.0.1$n/24" dev eth0
    ip -n "h$n" link set eth0 up
    ip -n "h$n" link set mac0 up
done

# on HOST COMMAND...: runs docker on a host.
on() {
    local host=$1
    shift
    docker -H "unix://$work/$host.sock" "$@"
}

leases() {
    "$sublet" list --json --store '{"etcd": {"endpoints": ["http://10.99.0.1:2379"]}}'
}

step() {
    echo "e2e-docker-cluster: $* ($SECONDS s)"
}

etcd --data-dir "$work/etcd" --listen-client-urls http://10.99.0.1:2379 \
    --advertise-client-urls http://10.99.0.1:2379 > "$work/etcd.log" 2>&1 &
wait_for 30 leases || fail "etcd does not answer"
for host in h1 h2; do
    # Do not use `ip netns exec`, because it hides the cgroups.
    nsenter --net="/run/netns/$host" unshare --mount --propagation private \
        "$PWD/scripts/e2e-docker-cluster.sh" host "$work" "$host" "$subletd" &
done
mkdir "$work/root" "$work/root/bin"
cp "$(command -v busybox)" "$work/root/bin/busybox"
for applet in sh ip sleep ping; do ln -s busybox "$work/root/bin/$applet"; done
for host in h1 h2; do
    wait_for 60 on "$host" version || fail "dockerd of $host does not answer"
    tar -C "$work/root" -c . | on "$host" import - bb > /dev/null
done

step "one network of two hosts"
for host in h1 h2; do
    on "$host" network create --driver macvlan --opt parent=mac0 --ipam-driver kontena-ipam \
        --ipam-opt network=kontena --subnet 10.81.0.0/16 --ip-range 10.81.128.0/17 kontena \
        > /dev/null || fail "network create on $host"
done

step "ten containers on each, at once"
running=()
for n in {1..10}; do
    for host in h1 h2; do
        on "$host" run -d --name "c$n" --network kontena bb sleep 1000 > /dev/null 2> "$work/run-$host-$n.err" &
        running+=($!)
    done
done
for one in "${running[@]}"; do wait "$one" || fail "a container: $(cat "$work"/run-*.err)"; done
addresses=()
for host in h1 h2; do
    for n in {1..10}; do
        addresses+=("$(on "$host" inspect -f '{{.NetworkSettings.Networks.kontena.IPAddress}}' "c$n")")
    done
done
distinct=$(printf '%s\n' "${addresses[@]}" | sort -u | grep -c '^10\.81\.1[23]')
[ "$distinct" = 20 ] || fail "$distinct addresses for 20 containers: ${addresses[*]}"
# The leases include the pool's gateway, which both hosts share.
[ "$(leases | jq length)" = 21 ] || fail "$(leases)"
[ "$(leases | jq '[.[] | select(.node == "h2")] | length')" = 10 ] || fail "$(leases)"

step "every one answers, from either host"
for host in h1 h2; do
    for address in "${addresses[@]}"; do
        on "$host" exec c1 ping -c 1 -W 5 "$address" > /dev/null || fail "$address does not answer $host"
    done
done

step "a host cleans up after itself alone"
for n in 6 7 8 9 10; do on h2 rm -f "c$n" > /dev/null; done
told=$(ETCD_ENDPOINT=http://10.99.0.1:2379 NODE_ID=h1 "$subletd" cleanup --grace 0s \
    --docker "$work/h1.sock" --address-spaces kontenalocal,kontenaglobal)
[ "$told" = "nothing to do" ] || fail "cleanup of h1: $told"
[ "$(leases | jq length)" = 16 ] || fail "$(leases)"

step "automatic pools of both, at once"
running=()
for n in 1 2 3; do
    for host in h1 h2; do
        # Each network has its own parent interface, because macvlan allows only one network per parent.
        ip -n "$host" link add "d$n" type veth peer name "e$n"
        on "$host" network create --driver macvlan --opt parent="d$n" --ipam-driver kontena-ipam \
            --ipam-opt network="auto-$host-$n" "auto$n" > /dev/null &
        running+=($!)
    done
done
for one in "${running[@]}"; do wait "$one" || fail "network create"; done
pools=$(for host in h1 h2; do
    for n in 1 2 3; do
        on "$host" network inspect -f '{{(index .IPAM.Config 0).Subnet}}' "auto$n"
    done
done | sort -u | wc -l)
[ "$pools" = 6 ] || fail "$pools subnets for 6 networks"

step "the end"
for host in h1 h2; do
    on "$host" ps -aq | xargs docker -H "unix://$work/$host.sock" rm -f > /dev/null
    on "$host" network rm kontena auto1 auto2 auto3 > /dev/null
done
[ "$(leases)" = "[]" ] || fail "leases are left: $(leases)"

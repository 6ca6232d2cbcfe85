#!/usr/bin/env bash
# Runs a real dockerd (Debian's docker.io) with subletd as its IPAM driver. Tests networks of every kind,
# containers, restarts, kill -9 of both programs, a forced shutdown, live restore, TCP with a spec file, and
# the examples of kontena-ipam and gipam. At the end, no address may be leased and no network may be left. If
# the argument is the name of a Debian release, such as trixie, the test runs the dockerd of that release.
#
# Everything happens in separate mount, network and PID namespaces, and the folders of dockerd and containerd
# are in a temporary folder. All of this ends with the script. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/e2e/common.sh
source scripts/e2e/common.sh

fail() {
    echo "e2e-docker: $*" >&2
    if [ -n "${work-}" ]; then
        tail -n 25 "$work"/*.log >&2 || true
    fi
    exit 1
}

if [ "${1-}" = enter ]; then
    # This runs inside the namespaces. It enters the root file system that contains another dockerd.
    root=$2
    mount --bind "$root" "$root"
    for folder in proc dev sys; do mount --rbind "/$folder" "$root/$folder"; done
    for folder in "$PWD" "$3"; do
        mkdir -p "$root$folder"
        mount --bind "$folder" "$root$folder"
    done
    exec chroot "$root" "$PWD/scripts/e2e-docker.sh" inside "$3" "$4"
fi
if [ "${1-}" != inside ]; then
    [ "$(id -u)" = 0 ] || fail "run it as root: dockerd needs it"
    for tool in dockerd docker containerd runc busybox unshare ip iptables jq curl; do
        command -v "$tool" > /dev/null ||
            fail "$tool is missing: apt-get install docker.io busybox-static iptables iproute2 jq curl"
    done
    if [ ! -x bin/sublet ] || [ ! -x bin/subletd ]; then scripts/build.sh; fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    run=("$PWD/scripts/e2e-docker.sh" inside)
    if [ $# -gt 0 ]; then
        run=("$PWD/scripts/e2e-docker.sh" enter "$(scripts/get-docker.sh "$1")")
    fi
    # If process 1 of the PID namespace is killed, all its other processes end.
    unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
        "${run[@]}" "$work" "${SUBLETD:-$PWD/bin/subletd}"
    echo "e2e-docker: everything passed in $SECONDS s"
    exit
fi

work=$2
subletd=$3
sublet=$PWD/bin/sublet
# /run has the sockets of plugins, and /etc/docker the spec files, so both are private.
mount -t tmpfs none /run
mkdir -p /run/docker/plugins /run/lock /etc/docker
mount -t tmpfs none /etc/docker
mkdir -p /etc/docker/plugins
mount -t cgroup2 none /sys/fs/cgroup 2> /dev/null || true
ip link set lo up
# Create typical routes of a host: a default route, and one inside the supernet.
ip link add uplink type veth peer name uplink-end
ip addr add 10.80.0.9/24 dev uplink
ip link set uplink up

export DOCKER_HOST=unix:///run/docker.sock
store=$work/store/leases.redb
subletd_pid=
dockerd_pid=
dockerd_flags=()

answers() {
    curl -s -X POST --unix-socket "$1" http://x/Plugin.Activate
}

start_subletd() {
    "$subletd" --store "$store" --v6 fd00:80::/32 --log-level debug \
        --socket /run/docker/plugins/sublet.sock --socket /run/docker/plugins/gipam.sock \
        --socket /run/docker/plugins/kontena-ipam.sock >> "$work/subletd.log" 2>&1 &
    subletd_pid=$!
    wait_for 10 answers /run/docker/plugins/sublet.sock || fail "subletd does not answer"
}

start_dockerd() {
    dockerd --data-root "$work/docker" --exec-root /run/docker-exec --pidfile /run/docker.pid \
        -H "$DOCKER_HOST" --bridge none --storage-driver vfs --userland-proxy=false "${dockerd_flags[@]}" \
        >> "$work/dockerd.log" 2>&1 &
    dockerd_pid=$!
    wait_for 60 docker version || fail "dockerd does not answer"
}

kill_hard() {
    kill -9 "$1"
    wait "$1" 2> /dev/null || true
}

leased() {
    "$sublet" list --json --store "$store" | jq -r '.[] | .address' | sort
}

# is WHAT EXPECTED GOT: fails if the values differ.
is() {
    [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}

create() {
    docker network create "$@" > /dev/null || fail "docker network create $*"
}

subnets() {
    docker network inspect -f '{{range .IPAM.Config}}{{.Subnet}} {{end}}' "$1" | sed 's/ $//'
}

# Prints the addresses of a running container on a network.
on() {
    docker inspect -f "{{with index .NetworkSettings.Networks \"$2\"}}{{.IPAddress}}{{end}}" "$1"
}

step() {
    echo "e2e-docker: $* ($SECONDS s)"
}

start_subletd
start_dockerd
mkdir "$work/root" && mkdir "$work/root/bin"
cp "$(command -v busybox)" "$work/root/bin/busybox"
for applet in sh ip sleep true ping; do ln -s busybox "$work/root/bin/$applet"; done
tar -C "$work/root" -c . | docker import - bb > /dev/null
sublet_net=(--ipam-driver sublet)

step "networks"
create "${sublet_net[@]}" auto
# The host has a route to 10.80.0.0/24, so the pool is the next /24.
is "an automatic pool" 10.80.1.0/24 "$(subnets auto)"
create "${sublet_net[@]}" --subnet 10.201.0.0/16 static
create "${sublet_net[@]}" --subnet 10.202.0.0/16 --ip-range 10.202.5.0/24 --gateway 10.202.0.254 \
    --aux-address host1=10.202.5.5 --aux-address host2=10.202.9.9 --ipam-opt k2=v2 range
create "${sublet_net[@]}" --ipv6 dual
is "a dual stack network" "10.80.2.0/24 fd00:80::/64" "$(subnets dual)"
create "${sublet_net[@]}" --ipv6 --subnet 10.203.0.0/24 --subnet fd00:bbbb::/64 \
    --gateway fd00:bbbb::ff --ip-range fd00:bbbb::1:0/112 dualstatic
if docker network create "${sublet_net[@]}" --subnet 10.201.128.0/17 clash 2> "$work/clash.err"; then
    fail "two overlapping networks"
fi
grep -q "Pool overlaps with other one on this address space" "$work/clash.err" || fail "$(cat "$work/clash.err")"
for address in 10.80.1.1 10.201.0.1 10.202.0.254 10.202.5.5 10.202.9.9 fd00:80::1 fd00:bbbb::ff; do
    leased | grep -qx "$address" || fail "$address is not leased"
done

step "containers"
docker run -d --name c1 --network static bb sleep 1000 > /dev/null
is "the first address" 10.201.0.2 "$(on c1 static)"
docker run -d --name c2 --network static --ip 10.201.7.7 bb sleep 1000 > /dev/null
is "an address that was asked for" 10.201.7.7 "$(on c2 static)"
docker run -d --name c3 --network range bb sleep 1000 > /dev/null
is "an address of the range" 10.202.5.0 "$(on c3 range)"
if docker run --rm --network range --ip 10.202.5.5 bb true 2> "$work/taken.err"; then
    fail "an auxiliary address was given"
fi
grep -q "Address already in use" "$work/taken.err" || fail "$(cat "$work/taken.err")"
docker run --rm --network dual bb ip addr show eth0 > "$work/dual.txt"
grep -q "10.80.2.2/24" "$work/dual.txt" || fail "$(cat "$work/dual.txt")"
grep -q "fd00:80::2/64" "$work/dual.txt" || fail "$(cat "$work/dual.txt")"
docker run --rm --network dualstatic --ip 10.203.0.66 --ip6 fd00:bbbb::66 bb ip addr show eth0 > "$work/d.txt"
grep -q "fd00:bbbb::66/64" "$work/d.txt" || fail "$(cat "$work/d.txt")"
docker exec c1 ping -c 1 -W 2 10.201.7.7 > /dev/null || fail "c1 does not reach c2"
docker network connect auto c1
is "a second network" 10.80.1.2 "$(on c1 auto)"
docker network connect --ip 10.202.5.77 range c1
docker network disconnect auto c1
leased | grep -qx 10.80.1.2 && fail "10.80.1.2 is leased after disconnect"
docker stop -t 0 c1 > /dev/null
leased | grep -qx 10.202.5.77 && fail "10.202.5.77 is leased after stop"
docker start c1 > /dev/null
is "an address after start" 10.202.5.77 "$(on c1 range)"
docker restart -t 0 c2 > /dev/null
is "an address after restart" 10.201.7.7 "$(on c2 static)"
docker kill c3 > /dev/null
leased | grep -qx 10.202.5.0 && fail "10.202.5.0 is leased after kill"
docker start c3 > /dev/null
if docker run --rm --network static bb /nonexistent 2> /dev/null; then fail "a wrong command ran"; fi
# There is one address for each of c1, c2 and c3, and a second one for c1.
is "leases of containers" 4 "$(leased | grep -cE '^10\.(201\.0\.2|201\.7\.7|202\.5\.0|202\.5\.77)$')"

step "subletd killed, dockerd killed"
kill_hard "$subletd_pid"
start_subletd
docker run --rm --network auto bb true || fail "no container after subletd was killed"
docker run -d --name c4 --restart always --network static bb sleep 1000 > /dev/null
before=$(leased)
kill_hard "$dockerd_pid"
rm -f /run/docker.pid
start_dockerd
wait_for 20 docker exec c4 true || fail "c4 did not come back"
docker start c1 c2 c3 > /dev/null
is "leases after dockerd was killed" "$before" "$(leased)"
"$subletd" cleanup --store "$store" --grace 0s > "$work/cleanup.txt" || fail "cleanup"
is "cleanup while all is well" "nothing to do" "$(cat "$work/cleanup.txt")"

step "subletd killed under load"
runs() {
    local n
    for n in 1 2 3 4; do
        docker run --rm --network static bb true >> "$work/load.txt" 2>&1 || true
    done
}
jobs=()
for n in 1 2 3 4 5 6 7 8; do
    runs &
    jobs+=($!)
done
for n in 1 2 3; do
    sleep 1
    kill_hard "$subletd_pid"
    start_subletd
done
wait "${jobs[@]}"
# The kills have lost responses, so the store may have addresses that dockerd does not know. `cleanup` must
# free these addresses and no others.
sleep 1.1
"$subletd" cleanup --store "$store" --grace 0s >> "$work/cleanup.txt" || fail "cleanup"
is "leases after the load" "$before" "$(leased)"

step "networks of any block"
# dockerd 26 and later list the requested subnet, not the allocated subnet.
cleaned() {
    sleep 1.1
    "$subletd" cleanup --store "$store" --grace 0s
}
create "${sublet_net[@]}" --subnet 0.0.0.0/20 block
create "${sublet_net[@]}" --driver macvlan --opt parent=uplink --subnet 0.0.0.0/21 lan
before_any=$(leased)
is "cleanup beside empty networks" "nothing to do" "$(cleaned)"
docker run -d --name a1 --network block bb sleep 1000 > /dev/null
docker run -d --name m1 --network lan bb sleep 1000 > /dev/null
with_containers=$(leased)
is "cleanup beside containers" "nothing to do" "$(cleaned)"
docker run -d --name m2 --network lan bb sleep 1000 > /dev/null
docker exec m1 ip addr show eth0 | sed -n -E 's/.*inet ([0-9.]+)\/21.*/\1/p' > "$work/m1.txt"
docker exec m2 ip addr show eth0 | sed -n -E 's/.*inet ([0-9.]+)\/21.*/\1/p' > "$work/m2.txt"
[ -s "$work/m1.txt" ] || fail "m1 has no address of a /21"
if cmp -s "$work/m1.txt" "$work/m2.txt"; then fail "m1 and m2 have $(cat "$work/m1.txt")"; fi
docker rm -f m2 > /dev/null
is "leases after m2" "$with_containers" "$(leased)"
docker rm -f a1 m1 > /dev/null
is "leases after the containers" "$before_any" "$(leased)"
docker network rm block lan > /dev/null
is "leases after the networks" "$before" "$(leased)"

step "IPv6 alone"
version=$(docker version -f '{{.Server.Version}}')
if [ "${version%%.*}" -ge 28 ]; then
    create "${sublet_net[@]}" --ipv4=false --ipv6 six
    docker run --rm --network six bb ip addr show eth0 > "$work/six.txt"
    grep -qE "inet6 fd00:80:[0-9a-f:]*/64" "$work/six.txt" || fail "$(cat "$work/six.txt")"
    if grep -q "inet 10\." "$work/six.txt"; then fail "$(cat "$work/six.txt")"; fi
    docker network rm six > /dev/null
else
    echo "e2e-docker: dockerd $version has no networks without IPv4"
fi
is "leases after IPv6" "$before" "$(leased)"

step "what dockerd leaves behind"
# The second subnet is refused. Some releases of dockerd then do not release the first pool.
if docker network create "${sublet_net[@]}" --ipv6 --subnet 10.243.0.0/24 --subnet fd00:bbbb::/64 half \
    2> "$work/half.err"; then
    fail "two overlapping networks"
fi
cleaned >> "$work/cleanup.txt"
create "${sublet_net[@]}" --subnet 10.243.0.0/24 half
docker network rm half > /dev/null
# The third SIGTERM ends dockerd at once.
for n in 1 2 3 4 5 6 7 8; do
    docker run -d --name "f$n" --network auto bb sleep 1000 > /dev/null
done
for n in 1 2 3; do kill "$dockerd_pid"; done
wait "$dockerd_pid" || true
rm -f /run/docker.pid
start_dockerd
docker rm -f f1 f2 f3 f4 f5 f6 f7 f8 > /dev/null
docker start c1 c2 c3 > /dev/null
wait_for 20 docker exec c4 true || fail "c4 did not come back"
cleaned >> "$work/cleanup.txt"
is "leases after a forced shutdown" "$before" "$(leased)"

step "live restore"
dockerd_flags=(--live-restore)
kill "$dockerd_pid"
wait "$dockerd_pid" || true
start_dockerd
docker start c1 c2 c3 > /dev/null
wait_for 20 docker exec c4 true || fail "c4 did not come back"
kill "$dockerd_pid"
wait "$dockerd_pid" || true
is "leases while dockerd is down" "$before" "$(leased)"
start_dockerd
docker exec c1 true || fail "c1 did not run on"
is "cleanup after a live restore" "nothing to do" "$(cleaned)"
docker restart -t 0 c1 > /dev/null
is "leases after a live restore" "$before" "$(leased)"
# dockerd cannot use a swarm and live restore at the same time.
dockerd_flags=()
kill "$dockerd_pid"
wait "$dockerd_pid" || true
start_dockerd
docker start c1 c2 c3 > /dev/null
wait_for 20 docker exec c4 true || fail "c4 did not come back"
is "leases after all restarts" "$before" "$(leased)"

step "kontena-ipam's and gipam's examples"
# Create the two networks from the README of kontena-ipam. They use the driver bridge, because Debian does not
# have weavemesh.
create --ipam-driver kontena-ipam --ipam-opt network=kontena --subnet 10.81.0.0/16 \
    --ip-range 10.81.128.0/17 kontena
docker network inspect kontena | jq -e '.[0].IPAM | .Driver == "kontena-ipam"
    and .Options == {"network": "kontena"}
    and .Config[0].Subnet == "10.81.0.0/16" and .Config[0].IPRange == "10.81.128.0/17"' > /dev/null ||
    fail "$(docker network inspect kontena)"
docker run -d --name k1 --network kontena bb sleep 1000 > /dev/null
case $(on k1 kontena) in
    10.81.128.*) ;;
    *) fail "k1 has $(on k1 kontena)" ;;
esac
create --ipam-driver kontena-ipam --ipam-opt network=kontena0 kontena0
docker network inspect kontena0 | jq -e '.[0].IPAM | .Options == {"network": "kontena0"}
    and (.Config[0] | (.Subnet | test("^10\\.8[0-9]\\.[0-9]+\\.0/24$")) and (.Gateway | test("\\.1(/24)?$")))' \
    > /dev/null || fail "$(docker network inspect kontena0)"
# Create the network and containers of gipam's compose file: one bridge with IPv6, and three busybox
# containers that print their addresses.
create --driver bridge --ipv6 --ipam-driver gipam gnet
for n in 1 2 3; do
    docker run -d --name "g$n" --network gnet bb sleep 1000 > /dev/null
    docker exec "g$n" ip addr show eth0 > "$work/g$n.txt"
    grep -qE "inet 10\.8[0-9]\.[0-9]+\.$((n + 1))/24" "$work/g$n.txt" || fail "$(cat "$work/g$n.txt")"
    grep -qE "inet6 fd00:80:[0-9a-f:]*::$((n + 1))/64" "$work/g$n.txt" || fail "$(cat "$work/g$n.txt")"
done
docker rm -f k1 g1 g2 g3 > /dev/null
docker network rm kontena kontena0 gnet > /dev/null

step "TCP and a spec file"
"$subletd" --store "$store" --address 127.0.0.1:0 --spec /etc/docker/plugins/tcpnet.spec \
    >> "$work/tcp.log" 2>&1 &
tcp_pid=$!
wait_for 10 test -e /etc/docker/plugins/tcpnet.spec || fail "there is no spec file"
create --ipam-driver tcpnet --subnet 10.241.0.0/24 tcp
docker run --rm --network tcp bb ip addr show eth0 > "$work/tcp.txt"
grep -q "10.241.0.2/24" "$work/tcp.txt" || fail "$(cat "$work/tcp.txt")"
docker network rm tcp > /dev/null
kill "$tcp_pid"
wait "$tcp_pid" || fail "subletd on TCP did not end well"

step "a managed plugin"
"$(dirname "$0")/docker-plugin.sh" "$work/plugin"
mkdir "$work/plugin-data"
docker plugin create sublet:latest "$work/plugin" > /dev/null
docker plugin set sublet:latest data.source="$work/plugin-data" SUBLET_V4=10.90.0.0/16
docker plugin enable sublet:latest > /dev/null || fail "the managed plugin does not start"
create --ipam-driver sublet:latest managed
is "a managed plugin's pool" 10.90.0.0/24 "$(subnets managed)"
docker run --rm --network managed bb ip addr show eth0 > "$work/managed.txt"
grep -q "10.90.0.2/24" "$work/managed.txt" || fail "$(cat "$work/managed.txt")"
docker network rm managed > /dev/null
is "leases of the managed plugin" "[]" "$("$sublet" list --json --store "$work/plugin-data/leases.redb")"
# A swarm requests the same pool, gateway and addresses in both address spaces.
docker swarm init --advertise-addr 127.0.0.1 > /dev/null || fail "docker swarm init"
docker network create --driver overlay --attachable --ipam-driver sublet:latest \
    --subnet 10.60.0.0/24 --ip-range 10.60.0.128/25 --gateway 10.60.0.9 over > /dev/null || fail "overlay"
docker run --rm --network over bb ip addr show eth0 > "$work/over.txt" || fail "no container in the swarm"
grep -qE "10\.60\.0\.1(2[89]|3[0-9])/24" "$work/over.txt" || fail "$(cat "$work/over.txt")"
docker network rm over > /dev/null
# The swarm releases the pool with a delay.
nothing_leased() { ! "$sublet" list --json --store "$work/plugin-data/leases.redb" | grep -q address; }
wait_for 20 nothing_leased || fail "$("$sublet" list --store "$work/plugin-data/leases.redb")"
docker swarm leave --force > /dev/null
docker plugin disable -f sublet:latest > /dev/null
docker plugin rm sublet:latest > /dev/null

step "cleanup of what dockerd forgot"
# dockerd removes the container and the network while subletd is not running, so subletd gets no release.
create "${sublet_net[@]}" --subnet 10.242.0.0/24 lost
docker run -d --name l1 --network lost bb sleep 1000 > /dev/null
kill "$subletd_pid"
wait "$subletd_pid" || fail "subletd did not end well"
[ ! -e /run/docker/plugins/sublet.sock ] || fail "the socket is still there"
kill_hard "$dockerd_pid"
# Test a dockerd whose data is older than the store, as if its disk had been restored from a backup.
rm -f /run/docker.pid "$work/docker/network/files/local-kv.db"
start_subletd
start_dockerd
docker rm -f l1 c1 c2 c3 c4 > /dev/null 2>&1 || true
sleep 1.1
"$subletd" cleanup --store "$store" --grace 0s --dry-run > "$work/dry.txt"
grep -q "would free pool sublet-local/10.242.0.0/24" "$work/dry.txt" || fail "$(cat "$work/dry.txt")"
"$subletd" cleanup --store "$store" --grace 0s > "$work/cleanup.txt"
is "leases that dockerd forgot" "" "$(leased)"

step "the end"
# Test a dockerd that has lost its networks while their bridges, and the routes through them, still exist.
ip -j link show type bridge | jq -r '.[] | .ifname' | while read -r bridge; do
    ip link del "$bridge"
done
create "${sublet_net[@]}" again
is "the first block again" 10.80.1.0/24 "$(subnets again)"
docker network rm again > /dev/null
is "networks" "" "$(docker network ls --filter driver=bridge -q)"
is "leases" "" "$(leased)"
kill "$dockerd_pid" "$subletd_pid"
wait "$dockerd_pid" "$subletd_pid" || true

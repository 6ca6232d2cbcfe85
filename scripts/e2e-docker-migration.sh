#!/usr/bin/env bash
# Runs a real dockerd (Debian's docker.io) that has networks and containers, first with gipam and then with
# kontena-ipam as the driver. `sublet import` reads the stores of these programs, and subletd continues under
# their names. Running containers keep their addresses, even if dockerd restarts. At the end, no address may
# be leased.
#
# gipam and kontena-ipam themselves do not run: scripts/e2e/predecessors.sh imitates them. If the argument is
# the name of a Debian release, such as trixie, the test runs the dockerd of that release.
#
# Everything happens in separate namespaces and ends with the script. Needs root; bin/sublet and bin/subletd
# (or the paths in SUBLET and SUBLETD) must be built.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/e2e/common.sh
source scripts/e2e/common.sh

fail() {
    echo "e2e-docker-migration: $*" >&2
    if [ -n "${work-}" ]; then
        tail -n 25 "$work"/*.log >&2 || true
    fi
    exit 1
}

if [ "${1-}" != inside ]; then
    [ "$(id -u)" = 0 ] || fail "run it as root: dockerd needs it"
    need dockerd=docker.io docker=docker.io containerd=containerd busybox=busybox-static unshare=util-linux \
        ip=iproute2 iptables=iptables jq=jq curl=curl etcd=etcd-server systemd-socket-activate=systemd
    if [ ! -x "${SUBLETD:-bin/subletd}" ]; then scripts/build.sh; fi
    root=
    [ $# = 0 ] || root=$(scripts/get-docker.sh "$1")
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # If process 1 of the PID namespace is killed, all its other processes end.
    unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
        "$PWD/scripts/e2e-docker-migration.sh" inside "$work" \
        "$(realpath "${SUBLET:-bin/sublet}")" "$(realpath "${SUBLETD:-bin/subletd}")" "$root"
    echo "e2e-docker-migration: everything passed in $SECONDS s"
    exit
fi

work=$2
sublet=$3
subletd=$4
root=$5
# /run has the plugins' sockets, so it is private.
mount -t tmpfs none /run
mkdir -p /run/docker/plugins /run/lock /run/h2 /etc/docker
mount -t tmpfs none /etc/docker
mount -t cgroup2 none /sys/fs/cgroup 2> /dev/null || true
ip link set lo up
in_root=()
if [ -n "$root" ]; then
    in_root=(chroot "$root")
    mount --bind "$root" "$root"
    for folder in /proc /dev /sys /run "$work"; do
        mkdir -p "$root$folder"
        mount --rbind "$folder" "$root$folder"
    done
fi

export DOCKER_HOST=unix:///run/docker.sock TMPDIR=$work
declare -A pid

step() {
    echo "e2e-docker-migration: $* ($SECONDS s)"
}

# is WHAT EXPECTED GOT: fails if the values differ.
is() {
    [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}

stop() {
    kill "${pid[$1]}"
    wait "${pid[$1]}" || true
}

answers() {
    curl -sf -X POST --unix-socket "$1" http://x/Plugin.Activate
}

# old NAME ARG...: starts the driver NAME on its socket.
old() {
    local socket=/run/docker/plugins/$1.sock
    [ "$1" != kontena ] || socket=/run/docker/plugins/kontena-ipam.sock
    systemd-socket-activate -E PATH -E TMPDIR --accept --inetd -l "$socket" \
        "$PWD/scripts/e2e/predecessors.sh" "$@" >> "$work/old-$1.log" 2>&1 &
    pid[old]=$!
    wait_for 10 answers "$socket" || fail "$1 does not answer"
}

# Ends the driver and the processes that serve its connections.
stop_old() {
    local children
    read -r -a children < "/proc/${pid[old]}/task/${pid[old]}/children" || true
    kill "${children[@]}" || true
    kill "${pid[old]}"
    wait "${pid[old]}" || true
    if answers "$1"; then fail "the old driver still answers"; fi
}

# new NAME SOCKET ARG...: starts subletd on the socket.
new() {
    local name=$1 socket=$2
    shift 2
    "$subletd" --log-level debug --socket "$socket" "$@" >> "$work/subletd-$name.log" 2>&1 &
    pid[$name]=$!
    wait_for 10 answers "$socket" || fail "subletd does not answer"
}

start_dockerd() {
    "${in_root[@]}" dockerd --data-root "$work/docker" --exec-root /run/docker-exec --pidfile /run/docker.pid \
        -H "$DOCKER_HOST" --bridge none --storage-driver vfs --userland-proxy=false --live-restore \
        >> "$work/dockerd.log" 2>&1 &
    pid[dockerd]=$!
    wait_for 60 docker version || fail "dockerd does not answer"
}

run() {
    docker run -d --name "$1" --network "$2" "${@:3}" bb sleep 1000 > /dev/null || fail "docker run $*"
}

# Prints the addresses on a container's interface.
inside() {
    docker exec "$1" ip -o addr show eth0 scope global | sed -E 's/.* inet6? ([^ ]+) .*/\1/' | sort
}

all_inside() {
    local one
    for one in "$@"; do echo "$one:" "$(inside "$one" | tr '\n' ' ')"; done
}

# Prints the addresses of gateways and containers in dockerd's networks. If a network was created with a
# requested subnet, its gateway is printed only if the network has containers.
known() {
    {
        docker network inspect "$@" | jq -r '.[] | (.IPAM.Config[].Gateway // empty),
            (.Containers[] | .IPv4Address, .IPv6Address) | select(. != "") | sub("/.*"; "")'
        docker ps -q | xargs -r docker inspect | jq -r '.[].NetworkSettings.Networks | to_entries[]
            | select(.key | IN($ARGS.positional[])) | .value | .Gateway, .IPv6Gateway | select(. != "")' \
            --args "$@"
    } | sort -u
}

# leased STORE [NODE]: prints the leased addresses, of all nodes or only of NODE.
leased() {
    "$sublet" list --json --store "$1" | jq -r --arg node "${2-}" \
        '.[] | select($node == "" or .node == $node) | .address' | sort
}

pools() {
    "$sublet" export jsonl --store "$1" | jq -r 'select(.record == "pool") | .pool' | sort
}

# sound STORE: fails if doctor finds a problem.
sound() {
    local report
    report=$("$sublet" doctor --json --store "$1") || fail "doctor: $report"
    is "doctor's problems" "[]" "$(jq -c .problems <<< "$report")"
}

# fresh CONTAINER ADDRESSES: fails if one of the container's addresses is among ADDRESSES, which are in use.
fresh() {
    local address
    for address in $(inside "$1"); do
        if grep -qxF "${address%/*}" <<< "$2"; then fail "$1 has $address, which is another's"; fi
    done
}

# restart CONTAINER...: restarts dockerd, and fails if the addresses of these containers change.
restart() {
    local before
    before=$(all_inside "$@")
    kill "${pid[dockerd]}"
    wait "${pid[dockerd]}" || true
    start_dockerd
    is "addresses after the restart of dockerd" "$before" "$(all_inside "$@")"
}

mkdir "$work/root" "$work/root/bin"
cp "$(command -v busybox)" "$work/root/bin/busybox"
for applet in sh ip sleep ping; do ln -s busybox "$work/root/bin/$applet"; done

step "gipam: networks and containers"
file=$work/leases.json
store=$work/store/leases.redb
old gipam "$file"
start_dockerd
tar -C "$work/root" -c . | docker import - bb > /dev/null
docker network create --ipam-driver gipam early > /dev/null
docker network create --ipv6 --ipam-driver gipam gnet > /dev/null
docker network create --ipam-driver gipam quiet > /dev/null
docker network rm early > /dev/null
docker network create --ipam-driver gipam again > /dev/null
# gipam always allocates its next block, but dockerd lists the requested subnet.
docker network create --ipam-driver gipam --subnet 192.168.77.0/24 asked > /dev/null
run a1 asked
run g1 gnet
run g2 gnet
run g3 gnet --restart always
run g4 again
docker rm -f g2 > /dev/null
is "a container of gipam's" "10.70.1.2/24 fd00:70::2/64" "$(inside g1 | tr '\n' ' ' | sed 's/ $//')"
networks=(again asked gnet quiet)
before=$(all_inside a1 g1 g3 g4)
kept=$(known "${networks[@]}")

step "gipam: the import"
stop_old /run/docker/plugins/gipam.sock
"$sublet" import gipam "$file" --store "$store" > /dev/null 2> "$work/flags.txt" || fail "import gipam"
is "leases after the import" "$kept" "$(leased "$store")"
"$sublet" import gipam "$file" --store "$store" &> /dev/null || fail "import gipam, again"
is "leases after another import" "$kept" "$(leased "$store")"
is "pools after the import" "$(jq -r '.allocated[].id' "$file" | sort)" "$(pools "$store")"
# Pass the flags that the import prints to subletd.
read -r -a flags <<< "$(sed -n 's/.*start subletd with .\(--.*\).$/\1/p' "$work/flags.txt" | sort | tr '\n' ' ')"
is "main pools" "--v4 10.70.0.0/16 --v4-block 24 --v6 fd00:70::/48 --v6-block 64" "${flags[*]}"
new gipam /run/docker/plugins/gipam.sock --store "$store" "${flags[@]}"

step "gipam: subletd goes on"
gipam_lives() {
    run g5 gnet
    fresh g5 "$kept"
    is "leases beside a new container" "$(known "${networks[@]}")" "$(leased "$store")"
    docker rm -f g5 > /dev/null
    is "leases after it" "$kept" "$(leased "$store")"
    is "cleanup" "nothing to do" "$(sleep 1.1 && "$subletd" cleanup --store "$store" --grace 0s)"
    sound "$store"
    is "addresses" "$before" "$(all_inside a1 g1 g3 g4)"
}
gipam_lives
restart a1 g1 g3 g4
gipam_lives
docker exec g1 ping -c 1 -W 5 10.70.1.1 > /dev/null || fail "g1 does not reach its gateway"
# The container was started while gipam ran. Stopping it now releases its addresses.
docker stop -t 0 g1 > /dev/null
if leased "$store" | grep -qxF -e 10.70.1.2 -e fd00:70::2; then fail "g1's addresses are still leased"; fi
docker start g1 > /dev/null
is "leases after the start of g1" "$(known "${networks[@]}")" "$(leased "$store")"
run q1 quiet
is "leases beside the first of a quiet network" "$(known "${networks[@]}")" "$(leased "$store")"
docker network create --ipv6 --ipam-driver gipam late > /dev/null
docker network inspect late | jq -e '.[0].IPAM.Config | map(.Subnet) | sort
    == ["10.70.4.0/24", "fd00:70:0:1::/64"]' > /dev/null || fail "$(docker network inspect late)"

step "gipam: the end"
docker rm -f a1 g1 g3 g4 q1 > /dev/null
docker network rm "${networks[@]}" > /dev/null
is "gateways of what is left" "$(known late)" "$(leased "$store")"
docker network rm late > /dev/null
is "leases" "" "$(leased "$store")"
is "pools" "" "$(pools "$store")"
sound "$store"
docker network create --ipam-driver gipam first > /dev/null
is "gipam's first block" 10.70.0.0/24 \
    "$(docker network inspect first | jq -r '.[0].IPAM.Config[0].Subnet')"
docker network rm first > /dev/null
stop gipam

step "kontena-ipam: networks and containers"
etcd_url=http://127.0.0.1:2379
etcd --enable-v2=true --data-dir "$work/etcd" --listen-client-urls $etcd_url \
    --advertise-client-urls $etcd_url > "$work/etcd.log" 2>&1 &
store="{\"etcd\": {\"endpoints\": [\"$etcd_url\"]}}"
wait_for 30 "$sublet" list --store "$store" || fail "etcd does not answer"
old_key() {
    curl -sf -X PUT "$etcd_url/v2/keys/kontena/ipam/$1" --data-urlencode "value=$2" > /dev/null
}
old_keys() {
    curl -sf "$etcd_url/v2/keys/kontena/ipam?recursive=true&sorted=true"
}
old kontena $etcd_url h1
# Create the two networks from kontena-ipam's README, but on a bridge.
docker network create --ipam-driver kontena-ipam --ipam-opt network=kontena --subnet 10.81.0.0/16 \
    --ip-range 10.81.128.0/17 kontena > /dev/null
docker network create --ipam-driver kontena-ipam --ipam-opt network=kontena0 kontena0 > /dev/null
run k1 kontena
run k2 kontena --ip 10.81.7.7
run k3 kontena
run k4 kontena0
docker rm -f k3 > /dev/null
# Write records as kontena-ipam leaves them: another host uses the pool, and a subnet is reserved for a pool
# that no longer exists.
old_key pool-nodes/kontena/h2 '{}'
old_key addresses/kontena/10.81.128.200 '{"address": "10.81.128.200/16", "node": "h2"}'
old_key subnets/10.83.0.0 '{"address": "10.83.0.0/24"}'
networks=(kontena kontena0)
before=$(all_inside k1 k2 k4)
kept=$(known "${networks[@]}")
keys_before=$(old_keys)

step "kontena-ipam: the import"
stop_old /run/docker/plugins/kontena-ipam.sock
"$sublet" import kontena --store "$store" --dry-run > "$work/dry.txt" 2>&1 || fail "$(cat "$work/dry.txt")"
is "leases after the dry run" "" "$(leased "$store")"
"$sublet" import kontena --store "$store" --json > "$work/import.json" || fail "import kontena"
is "what was left out" '["10.83.0.0/24"]' "$(jq -c .leftOut "$work/import.json")"
is "leases of h1 after the import" "$kept" "$(leased "$store" h1)"
is "leases of h2 after the import" 10.81.128.200 "$(leased "$store" h2)"
is "another import" true "$("$sublet" import kontena --store "$store" --json | jq .before)"
sublet_on() {
    ETCD_ENDPOINT=$etcd_url NODE_ID=$1 new "$1" "$2" --address-spaces kontenalocal,kontenaglobal
}
sublet_on h1 /run/docker/plugins/kontena-ipam.sock
sublet_on h2 /run/h2/kontena-ipam.sock
# ask METHOD BODY: sends a request as the dockerd on h2 would.
ask() {
    curl -sf --unix-socket /run/h2/kontena-ipam.sock -d "$2" "http://x/IpamDriver.$1"
}

step "kontena-ipam: subletd goes on"
kontena_lives() {
    local other
    run k5 kontena
    run k6 kontena0
    other=$(ask RequestAddress '{"PoolID": "kontena"}' | jq -r .Address)
    fresh k5 "$kept"
    fresh k6 "$kept"
    [ "${other%/*}" != "$(inside k5 | sed 's|/.*||')" ] || fail "two hosts have $other"
    case $(inside k5) in
        10.81.12[89].*/16 | 10.81.1[3-9]?.*/16 | 10.81.2??.*/16) ;;
        *) fail "k5 has $(inside k5)" ;;
    esac
    is "leases of h1 beside new containers" "$(known "${networks[@]}")" "$(leased "$store" h1)"
    ask ReleaseAddress "{\"PoolID\": \"kontena\", \"Address\": \"${other%/*}\"}" > /dev/null
    docker rm -f k5 k6 > /dev/null
    is "leases of h1 after them" "$kept" "$(leased "$store" h1)"
    is "leases of h2" 10.81.128.200 "$(leased "$store" h2)"
    is "cleanup of h1" "nothing to do" "$(sleep 1.1 && ETCD_ENDPOINT=$etcd_url NODE_ID=h1 \
        "$subletd" cleanup --grace 0s --address-spaces kontenalocal,kontenaglobal)"
    sound "$store"
    is "addresses" "$before" "$(all_inside k1 k2 k4)"
}
kontena_lives
restart k1 k2 k4
kontena_lives
if docker run --rm --network kontena --ip 10.81.128.200 bb sleep 0 2> "$work/taken.err"; then
    fail "h1 has h2's address"
fi
grep -q "Address already in use" "$work/taken.err" || fail "$(cat "$work/taken.err")"
docker stop -t 0 k2 > /dev/null
if leased "$store" | grep -qxF 10.81.7.7; then fail "k2's address is still leased"; fi
docker start k2 > /dev/null
is "addresses after the start of k2" "$before" "$(all_inside k1 k2 k4)"

step "kontena-ipam: the end"
docker rm -f k1 k2 k4 > /dev/null
docker network rm "${networks[@]}" > /dev/null
# The gateway stays leased as long as the pool exists, and h2 still uses the pool.
is "leases after h1's networks" $'10.81.0.1\n10.81.128.200' "$(leased "$store")"
is "pools after h1's networks" kontena "$(pools "$store")"
sound "$store"
is "the release by h2" "{}" "$(ask ReleaseAddress '{"PoolID": "kontena", "Address": "10.81.128.200"}')"
is "the release by h2" "{}" "$(ask ReleasePool '{"PoolID": "kontena"}')"
is "leases" "" "$(leased "$store")"
is "pools" "" "$(pools "$store")"
sound "$store"
is "kontena's keys" "$keys_before" "$(old_keys)"
stop h1
stop h2
stop dockerd

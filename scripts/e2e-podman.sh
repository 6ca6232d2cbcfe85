#!/usr/bin/env bash
# Runs Debian's podman with its CNI backend. Containers get addresses from sublet, with and without `--ip`.
# One network names sublet. The other network was created by podman for host-local, and sublet replaces
# host-local while a container runs.
#
# Everything happens in separate namespaces, on copies of /etc, /run, /var/lib and /opt, and ends with the
# script. Needs root; installs missing Debian packages.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/e2e/common.sh
source scripts/e2e/common.sh

if [ "${1-}" != inside ]; then
    need podman=podman runc=runc conmon=conmon busybox=busybox-static iptables=iptables \
        /usr/lib/cni/bridge=containernetworking-plugins ip=iproute2 jq=jq unshare=util-linux \
        mount=mount
    [ -x bin/sublet ] || scripts/build.sh
    enter "$@"
fi

own_folders
image=localhost/busybox:e2e
image "$work/image.tar" "$image"
cat > "$work/containers.conf" << END
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
network_config_dir = "/etc/cni/net.d"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
END
jq -n '{cniVersion: "0.4.0", name: "ours", plugins: [
    {type: "bridge", bridge: "ours0", isGateway: true, ipMasq: true, capabilities: {ips: true},
     ipam: {type: "sublet", ranges: [[{subnet: "10.79.0.0/24"}], [{subnet: "fd79::/64"}]],
            routes: [{dst: "0.0.0.0/0"}, {dst: "::/0"}]}},
    {type: "portmap", capabilities: {portMappings: true}},
    {type: "tuning"}
]}' > /etc/cni/net.d/ours.conflist

# vfs copies a container's files, so it works on every file system.
pod() {
    CONTAINERS_CONF=$work/containers.conf podman --storage-driver vfs --root "$work/storage" \
        --runroot "$work/runroot" --tmpdir "$work/tmp" --runtime runc "$@"
}

# run NAME NETWORK OPTION ...: starts a container that sleeps; prints its ID.
run() {
    pod run --detach --name "$1" --network "$2" "${@:3}" --cgroup-parent "/$cgroup" \
        --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$image"
}

# held ID ADDRESS ...: fails unless the container has exactly these addresses, inside it and in the list.
held() {
    local id=$1 shown address
    shift
    [ "$(addresses "$id" | xargs)" = "$*" ] || fail "not $*: $(leases)"
    shown=$(pod exec "$id" ip -o address show dev eth0 scope global)
    for address in "$@"; do
        [[ $shown == *" $address/"* ]] || fail "$address is not on eth0: $shown"
    done
}

[ "$(pod info --format '{{.Host.NetworkBackend}}')" = cni ] || fail "podman does not use CNI"
pod load --quiet --input "$work/image.tar" > /dev/null

a=$(run a ours)
held "$a" 10.79.0.2 fd79::2
b=$(run b ours --ip 10.79.0.77)
held "$b" 10.79.0.77 fd79::3
for address in 10.79.0.77 fd79::3; do
    pod exec "$a" ping -q -c 1 -W 5 $address > /dev/null || fail "a does not reach $address"
done
row "a container by turns, one with --ip; they reach each other" "10.79.0.2, 10.79.0.77"

if run taken ours --ip 10.79.0.77 > "$work/answer" 2>&1; then
    fail "10.79.0.77 was given twice: $(leases)"
fi
grep -q '10\.79\.0\.77' "$work/answer" || fail "the refusal does not say what: $(cat "$work/answer")"
pod rm --force --time 0 taken > /dev/null
[ "$(leases | jq length)" = 4 ] || fail "the refused one has a lease: $(leases)"
held "$b" 10.79.0.77 fd79::3
row "the same --ip again" "refused, nothing changed"

pod restart --time 0 a > /dev/null
pod exec a ping -q -c 1 -W 5 10.79.0.77 > /dev/null || fail "a does not reach b after its restart"
[ "$(leases | jq length)" = 4 ] || fail "restart: $(leases)"
row "restarted" "4 leases of 2 containers"
pod rm --force --time 0 a b > /dev/null
no_leases "both removed"
no_links "both removed"
row "both removed" "no lease, no link"

# The network that podman creates names host-local. sublet replaces host-local while a container runs.
pod network create --subnet 10.78.0.0/24 made > /dev/null
old=$(run old made)
[ -s "/var/lib/cni/networks/made/10.78.0.2" ] || fail "host-local leased nothing"
scripts/install.sh --bin "$work/bin" --as host-local > /dev/null
new=$(run new made)
held "$new" 10.78.0.3
held "$old" 10.78.0.2
pod exec "$new" ping -q -c 1 -W 5 10.78.0.2 > /dev/null || fail "new does not reach old"
fixed=$(run fixed made --ip 10.78.0.9)
held "$fixed" 10.78.0.9
row "a link named host-local, while a container runs" "taken over: 10.78.0.2 stays, then .3, .9"
pod rm --force --time 0 old new fixed > /dev/null
no_leases "all removed"
no_links "all removed"
row "all removed" "no lease, no link"
table

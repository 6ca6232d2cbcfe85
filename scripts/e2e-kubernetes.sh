#!/usr/bin/env bash
# Tests packaging/kubernetes with Debian's containerd and the image of packaging/image.sh. The script creates
# the pod of the DaemonSet as a kubelet does, beside the other pods of a node. It tests: a node without a
# network, pods with addresses, a deleted and a replaced plugin, a lost DEL, fewer capabilities, upgrade and
# rollback while pods start, the page, uninstall, replacing and restoring host-local, and ranges of each node
# from one template. No API server and no kubelet run.
#
# Everything happens in separate namespaces, on copies of /etc, /run, /var/lib and /opt, and ends with the
# script. Needs root; installs missing Debian packages.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/e2e/common.sh
source scripts/e2e/common.sh
# shellcheck source=scripts/e2e/containerd.sh
source scripts/e2e/containerd.sh
# shellcheck source=scripts/e2e/cri.sh
source scripts/e2e/cri.sh
# shellcheck source=scripts/e2e/kubelet.sh
source scripts/e2e/kubelet.sh

# The previous version is the same program in a different file.
before=0.0.1
now=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
images=${CARGO_TARGET_DIR:-target}/kubernetes/images

if [ "${1-}" != inside ]; then
    need "${containerd_needs[@]}" curl=curl protoc=protobuf-compiler buildah=buildah python3=python3-venv \
        promtool=prometheus
    [ -x bin/sublet ] || scripts/build.sh
    rendered=$(scripts/kubernetes.sh)
    rm -rf "$images"
    mkdir -p "$images/before"
    for program in sublet subletd; do
        # Data after the end of an ELF file is never read, so the program still works.
        { cat "bin/$program"; echo; } > "$images/before/$program"
    done
    arch=$(dpkg --print-architecture)
    packaging/image.sh "$before" "$images/$before.tar" "$arch=$images/before"
    packaging/image.sh "$now" "$images/$now.tar" "$arch=bin"
    packaging/image.sh "$now" "$images/again.tar" "$arch=bin"
    cmp "$images/$now.tar" "$images/again.tar" || fail "the image is not reproducible"
    for file in "$rendered"/*.json; do
        # In this test, the agent searches for stale leases more often than the manifest says.
        sed 's/"--gc-every=5m"/"--gc-every=1s", "--grace=0s"/g' "$file" > "$images/$(basename "$file")"
        sed "s/sublet:$now/sublet:$before/g" "$images/$(basename "$file")" > "$images/before/$(basename "$file")"
    done
    enter "$@"
fi

kubelet_starts() {
    containerd_starts
    until_true 30 "sandboxes are listed" lists
}
lists() {
    sandboxes > /dev/null 2>&1
}

has() {
    [ "$2" = "$3" ] || fail "$1: $2, not $3"
}

# as MANIFEST FILTER: prints the manifest after jq has changed it with the filter.
as() {
    jq "$2" "$1" > "$work/changed.json"
    echo "$work/changed.json"
}

sum() {
    sha256sum < "$1"
}

is_installed() {
    [ -x "$plugin" ] && [ "$(sum "$plugin")" = "$(sum "$1")" ]
}

no_addresses() {
    [ -z "$(addresses "$1")" ]
}

# lose ID: ends a sandbox and its network namespace without a DEL.
lose() {
    local netns
    netns=$(leases | jq --raw-output --arg id "$1" '[.[] | select(.containerID == $id) | .netns] | first')
    kill -KILL "$(ctr -n k8s.io task ls | awk -v id="$1" '$1 == id { print $2 }')"
    umount "$netns"
    rm "$netns"
}

# remove_pods: removes all sandboxes except the DaemonSet's sandbox.
remove_pods() {
    local id
    while read -r id _; do
        [ "$id" = "$pod_sandbox" ] || remove_sandbox "$id"
    done < <(sandboxes)
}

plugin=/opt/cni/bin/sublet
containerd_folders '{}'
rm "$plugin"
rm /etc/cni/net.d/*
# Change the owner of the folder as the archives of some releases of the CNI plugins do.
chown -R 1001:1001 /opt/cni/bin
kubelet_starts
ctr -n k8s.io image import --snapshotter native "$work/image.tar" > /dev/null
for version in "$before" "$now"; do
    ctr -n k8s.io image import --snapshotter native "$images/$version.tar" > /dev/null
    listed=$(ctr -n k8s.io image ls -q)
    [[ $listed == *docker.io/library/sublet:$version* ]] || fail "the image is not there: $listed"
done

# The node has neither a plugin nor a network configuration.
if run_sandbox early 0 2> "$work/refusal"; then fail "a pod runs on a node without a network"; fi
mkdir -p "$work/configmaps/sublet-conflist"
jq --raw-output '.[] | select(.kind == "ConfigMap").data."10-sublet.conflist"' "$images/conflist.json" \
    > "$work/configmaps/sublet-conflist/10-sublet.conflist"
denied=$(as "$images/before/conflist.json" '(.. | .capabilities? | objects) |= del(.add)')
if pod_starts "$denied" 2> "$work/refusal"; then fail "installed without DAC_OVERRIDE"; fi
remove_sandbox "$pod_sandbox"
row "init container without DAC_OVERRIDE, /opt/cni/bin of user 1001" "fails: $(pod_log | grep -o 'cannot.*')"
pod_starts "$images/before/conflist.json" || fail "the pod does not start: $(pod_log)"
is_installed "$images/before/sublet" || fail "another plugin is installed: $(pod_log)"
network_is_up() {
    web=$(run_sandbox web 0 2> "$work/refusal")
}
until_true 30 "a pod gets an address" network_is_up
has "web" "$(addresses "$web" | xargs)" "10.77.0.2 fd77::2"
row "from zero to a pod with addresses" "$(addresses "$web" | xargs)"

# Check the agent: it has only the capabilities 1 and 19 (capabilities(7)), programs cannot get new ones, and
# a seccomp filter is active.
agent=$(ctr -n k8s.io task ls | awk -v id="${pod_containers[0]}" '$1 == id { print $2 }')
has "privileges" "$(awk '/^(CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):/ { print $2 }' "/proc/$agent/status" | xargs)" \
    "0000000000080002 0000000000080002 0000000000080002 1 2"
row "the agent's privileges" "DAC_OVERRIDE, SYS_PTRACE; no_new_privs; seccomp"

# Change the ConfigMap: the agent must install the new configuration.
sed 's/fd77:/fd78:/' "$work/configmaps/sublet-conflist/10-sublet.conflist" > "$work/next.conflist"
mv "$work/next.conflist" "$work/configmaps/sublet-conflist/10-sublet.conflist"
until_true 30 "the configuration follows" grep -q fd78: /etc/cni/net.d/10-sublet.conflist
row "a changed ConfigMap" "copied to /etc/cni/net.d"

# Delete the plugin, and then replace it by another file: the agent must restore it.
rm "$plugin"
until_true 30 "the deleted plugin comes back" is_installed "$images/before/sublet"
until_true 30 "the agent says so" pod_log_has "$plugin: installed"
cp /usr/lib/cni/host-local "$plugin.new"
mv "$plugin.new" "$plugin"
until_true 30 "the replaced plugin comes back" is_installed "$images/before/sublet"
until_true 30 "the agent says so" pod_log_has "$plugin: replaced"
rm "$plugin.old"
run_sandbox db 0 > /dev/null
row "the plugin is deleted, then replaced" "it comes back, and pods start"

# Lose a DEL. The agent may free only the lease of the pod that is gone.
lost=$(run_sandbox lost 0)
[ -n "$(addresses "$lost")" ] || fail "the pod has no lease"
lose "$lost"
until_true 30 "its lease is freed" no_addresses "$lost"
has "leases of running pods" "$(leases | jq length)" 4
row "a pod is gone without a DEL" "freed by the agent, 4 leases of running pods stay"
pod_ends
lost=$(run_sandbox lost 1)
lose "$lost"
pod_starts "$(as "$images/before/conflist.json" '(.. | .capabilities? | objects | .add) -= ["SYS_PTRACE"]')"
until_true 30 "it says that it cannot determine" pod_log_has "0 stale, 0 freed, 6 undetermined, 0 in use"
has "leases" "$(leases | jq length)" 6
pod_ends
pod_starts "$images/before/conflist.json"
until_true 30 "its lease is freed" no_addresses "$lost"
row "the same without SYS_PTRACE" "6 undetermined, nothing freed"

# Pods start and end continuously while the DaemonSet is updated and rolled back.
churn() {
    local id n=0
    while [ ! -e "$work/stop" ]; do
        n=$((n + 1))
        if id=$(run_sandbox "churn$n" 0) && remove_sandbox "$id"; then
            echo "$n" >> "$work/churned"
        else
            echo "$n" >> "$work/failed"
        fi
    done
}
touch "$work/churned" "$work/failed"
churn 2> "$work/churn.log" &
churning=$!
churned() {
    [ "$(wc -l < "$work/churned")" -ge "$1" ]
}
until_true 60 "pods start" churned 2
for round in 1 2 3; do
    for version in "$now" "$before"; do
        pod_ends
        if [ "$version" = "$now" ]; then
            pod_starts "$images/conflist.json"
            is_installed bin/sublet || fail "not upgraded"
        else
            pod_starts "$images/before/conflist.json"
            is_installed "$images/before/sublet" || fail "not rolled back: $(pod_log)"
        fi
        until_true 60 "pods start" churned $((10 * round))
    done
done
touch "$work/stop"
wait "$churning"
has "pods that failed" "$(wc -l < "$work/failed")" 0
has "leases" "$(leases | jq length)" 4
row "3 upgrades and 3 rollbacks while pods start" "$(wc -l < "$work/churned") pods started and ended, none failed"

# Test the status page, first on the loopback address and then on all addresses.
pod_ends
pod_starts "$images/page.json"
answers_metrics() {
    curl --silent --fail --max-time 5 "http://$1:9780/metrics" > "$work/metrics"
}
until_true 30 "the page answers" answers_metrics 127.0.0.1
# Make the request of the readiness probe.
curl --silent --fail --max-time 5 --output /dev/null http://127.0.0.1:9780/ || fail "the page is not ready"
grep -q '^sublet_leases 4$' "$work/metrics" || fail "metrics: $(cat "$work/metrics")"
grep -q '^sublet_store_readable 1$' "$work/metrics" || fail "metrics: $(cat "$work/metrics")"
if answers_metrics 10.77.0.1; then fail "the page answers from outside"; fi
pod_ends
pod_starts "$images/monitoring.json"
until_true 30 "the page answers" answers_metrics 10.77.0.1
row "/metrics: page, monitoring" "on loopback alone, for everybody: $(grep -c '^sublet_' "$work/metrics") samples"

# Before the uninstall, give the node another network configuration.
remove_pods
no_leases "all pods removed"
jq '.plugins[0].ipam = {type: "host-local", ranges: [[{subnet: "10.88.0.0/24"}]]}
    | .plugins[0].bridge = "cni1" | .name = "other"' /etc/cni/net.d/10-sublet.conflist > "$work/other.conflist"
cp /usr/lib/cni/host-local /opt/cni/bin/
rm /etc/cni/net.d/10-sublet.conflist*
cp "$work/other.conflist" /etc/cni/net.d/20-other.conflist
# A signal must end these pods, because `sublet watch` handles no signal.
pod_is_deleted() {
    local id
    for id in "${pod_containers[@]}"; do
        cri StopContainer "container_id: \"$id\" timeout: 10"
    done
    remove_sandbox "$pod_sandbox"
}
pod_ends
pod_starts "$images/uninstall.json"
until_true 30 "it waits" pod_log_has "sublet: removed"
has "plugins" "$(find /opt/cni/bin -name 'sublet*')" ""
[ -n "$(find /var/lib/cni/sublet -name 'leases.redb*')" ] || fail "the store is gone"
pod_is_deleted
row "uninstall" "the plugin is removed, the store stays"

# Replace host-local with sublet while host-local's pods run.
of_host_local() {
    grep -l "^$1" /var/lib/cni/networks/other/10.* | xargs -r -n 1 basename
}
first() {
    one=$(run_sandbox one 0 2> "$work/refusal")
}
until_true 30 "host-local serves" first
has "host-local's" "$(of_host_local "$one")" 10.88.0.2
pod_starts "$images/host-local.json"
has "host-local" "$(readlink /opt/cni/bin/host-local)" sublet
two=$(run_sandbox two 0)
has "the next pod" "$(addresses "$two")" 10.88.0.3
has "the first pod" "$(addresses "$one")" 10.88.0.2
cp /usr/lib/cni/host-local /opt/cni/bin/host-local.new
mv /opt/cni/bin/host-local.new /opt/cni/bin/host-local
is_replaced() {
    [ "$(readlink /opt/cni/bin/host-local)" = sublet ]
}
until_true 30 "the link comes back" is_replaced
remove_sandbox "$two"
has "leases" "$(leases | jq --raw-output '.[].address')" 10.88.0.2
pod_ends
pod_starts "$images/uninstall.json"
has "host-local" "$(sum /opt/cni/bin/host-local)" "$(sum /usr/lib/cni/host-local)"
has "host-local's" "$(of_host_local "$one")" 10.88.0.2
three=$(run_sandbox three 0)
has "host-local's next" "$(of_host_local "$three")" 10.88.0.4
pod_is_deleted
remove_pods
row "in the place of host-local, and back" "pods keep their addresses, the rotation goes on"

# Test a template that gives each node its own range: the kubelet tells the runtime the range of its node.
rm /etc/cni/net.d/*
mkdir /etc/cni/template.d
jq '.plugins[0].bridge = "cni2" | .name = "by-node" | .plugins[0].ipam = {type: "sublet", ranges: "RANGES"}' \
    packaging/kubernetes/components/conflist/10-sublet.conflist |
    sed 's/"RANGES"/[{{range $i, $r := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$r}}"}]{{end}}]/' \
        > /etc/cni/template.d/10-by-node.conflist
echo '		conf_template = "/etc/cni/template.d/10-by-node.conflist"' >> "$work/config.toml"
containerd_ends TERM
kubelet_starts
pod_starts "$images/base.json"
cri UpdateRuntimeConfig 'runtime_config { network_config { pod_cidr: "10.99.7.0/24,fd99:7::/64" } }'
until_true 30 "a pod gets an address" network_is_up
has "web" "$(addresses "$web" | xargs)" "10.99.7.2 fd99:7::2"
row "ranges of the node from containerd's template" "$(addresses "$web" | xargs)"
remove_pods
no_leases "the end"
pod_ends
containerd_ends TERM
table

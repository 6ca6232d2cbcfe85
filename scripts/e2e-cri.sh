#!/usr/bin/env bash
# Runs Debian's containerd through the CRI, as a kubelet does, with the plugins bridge, sublet and portmap.
# Tests that leases record their pod, that sandboxes can be retried and stopped, and that a DEL without a
# namespace works. Also tests a containerd that is killed 200 times during RunPodSandbox, and a reboot.
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

if [ "${1-}" != inside ]; then
    need "${containerd_needs[@]}" curl=curl protoc=protobuf-compiler
    [ -x bin/sublet ] || scripts/build.sh
    enter "$@"
fi

# Simulates another boot: mounts a file with another boot ID over the kernel's file. containerd and its child
# processes see the mounted file.
boot() {
    printf '%08d-0000-4000-8000-000000000000\n' "$1" > "$work/boot-$1"
    mount --bind "$work/boot-$1" /proc/sys/kernel/random/boot_id
}

# containerd responds to requests before it has loaded its sandboxes.
kubelet_starts() {
    containerd_starts
    until_true 30 "sandboxes are listed" lists
}
lists() {
    sandboxes > /dev/null 2>&1
}

containerd_folders '{"sticky": true}'
boot 1
kubelet_starts
ctr -n k8s.io image import --snapshotter native "$work/image.tar" > /dev/null

# of ID KEY: prints the distinct values of the field KEY in the leases of a sandbox.
of() {
    leases | jq -r --arg id "$1" --arg key "$2" \
        '[.[] | select(.containerID == $id) | .[$key]] | unique | join(" ")'
}

has() {
    [ "$2" = "$3" ] || fail "$1: $2, not $3"
}

# A lease records its pod.
web=$(run_sandbox web 0 'port_mappings { container_port: 80 host_port: 8080 }')
has "podNamespace" "$(of "$web" podNamespace)" tests
has "podName" "$(of "$web" podName)" web
has "podUID" "$(of "$web" podUID)" uid-of-web
has "address" "$(addresses "$web" | xargs)" "10.77.0.2 fd77::2"
netns=$(of "$web" netns)
[ -e "$netns" ] || fail "the lease's namespace $netns is none"
shown=$(/opt/cni/bin/sublet show "$web")
[[ $shown == *tests/web* ]] || fail "sublet show: $shown"
has "explained" "$(/opt/cni/bin/sublet explain tests/web --json | jq -r '.[].container' | xargs)" "running running"
# portmap got the address from sublet.
nat=$(iptables-save -t nat)
[[ $nat == *"DNAT --to-destination 10.77.0.2:80"* ]] || fail "no port is mapped: $nat"
db=$(run_sandbox db 0)
nsenter --net="$netns" ping -q -c 1 -W 5 "$(addresses "$db" | head -n 1)" > /dev/null ||
    fail "web does not reach db"
row "a sandbox's leases tell its pod" "$(of "$web" podNamespace)/web, $(of "$web" podUID)"

# A kubelet retries a broken sandbox with the next number, before it removes the broken one.
cri StopPodSandbox "pod_sandbox_id: \"$web\""
has "a stopped sandbox" "$(addresses "$web")" ""
retried=$(run_sandbox web 1)
# The pod gets the same address, because its network is sticky and the pod is the same.
has "the retried sandbox" "$(addresses "$retried" | xargs)" "10.77.0.2 fd77::2"
remove_sandbox "$web"
has "once the first is removed" "$(addresses "$retried" | xargs)" "10.77.0.2 fd77::2"
row "a retried sandbox (attempt + 1)" "its pod's addresses again"

# The network namespace was removed, so containerd sends a DEL without a namespace.
mv /opt/cni/bin/sublet /opt/cni/bin/.sublet
cat > /opt/cni/bin/sublet << END
#!/bin/sh
echo "\$CNI_COMMAND \$CNI_CONTAINERID netns=\$CNI_NETNS" >> $work/calls
exec /opt/cni/bin/.sublet "\$@"
END
chmod +x /opt/cni/bin/sublet
netns=$(of "$retried" netns)
umount "$netns"
rm "$netns"
remove_sandbox "$retried"
mv /opt/cni/bin/.sublet /opt/cni/bin/sublet
grep -q "^DEL $retried netns=\$" "$work/calls" || fail "no DEL without a namespace: $(cat "$work/calls")"
has "a DEL without a namespace" "$(addresses "$retried")" ""
remove_sandbox "$db"
no_leases "all removed"
no_links "all removed"
row "a DEL without its namespace" "freed"

# An address that is reserved for a pod is leased only to this pod, even after the pod has been recreated.
/opt/cni/bin/sublet reserve pods 10.77.0.3 fd77::3 --for tests/named > /dev/null
static="10.77.0.3 fd77::3"
stranger=$(run_sandbox stranger 0)
[ "$(addresses "$stranger" | xargs)" != "$static" ] || fail "a stranger has $static"
named=$(run_sandbox named 0)
has "a named pod" "$(addresses "$named" | xargs)" "$static"
remove_sandbox "$named"
another=$(run_sandbox another 0)
named=$(run_sandbox named 1)
has "the named pod, recreated" "$(addresses "$named" | xargs)" "$static"
# As long as the network namespace of the pod's sandbox exists, a second sandbox of the pod is refused.
if run_sandbox named 2 2> "$work/refusal"; then fail "two sandboxes have $static"; fi
grep -q "earlier container of this name still holds the address.*network namespace exists" "$work/refusal" ||
    fail "the refusal does not say why: $(cat "$work/refusal")"
# After the namespace is gone, the addresses move to a new sandbox before the DEL arrives. The DEL then frees
# nothing.
netns=$(of "$named" netns)
pid=$(ctr -n k8s.io task ls | awk -v id="$named" '$1 == id { print $2 }')
kill -KILL "$pid"
until_true 30 "the sandbox ends" test ! -e "/proc/$pid"
umount "$netns"
rm "$netns"
# A kubelet never repeats an attempt.
moved=$(run_sandbox named 3)
has "the named pod, whose namespace was gone" "$(addresses "$moved" | xargs)" "$static"
remove_sandbox "$named"
has "after the late DEL" "$(addresses "$moved" | xargs)" "$static"
while read -r id _; do
    remove_sandbox "$id"
done < <(sandboxes)
/opt/cni/bin/sublet unreserve pods 10.77.0.3 fd77::3 --yes > /dev/null
no_leases "the named pod removed"
no_links "the named pod removed"
row "a pod with a static address, recreated" "its addresses again, and nobody else has them"

# A pod in a draining range keeps its address, and nothing new is leased from the range.
kept=$(run_sandbox kept 0)
at=$(addresses "$kept" | head -n 1)
if /opt/cni/bin/sublet drain pods 10.77.0.0/25 > "$work/drained"; then fail "drained, with a pod"; fi
grep -q "tests/kept *$at" "$work/drained" || fail "the pod is not listed: $(cat "$work/drained")"
containerd_ends TERM
kubelet_starts
has "the pod, after a restart of containerd" "$(addresses "$kept" | head -n 1)" "$at"
newer=$(run_sandbox newer 0)
[[ $(addresses "$newer" | head -n 1) =~ ^10\.77\.0\.(12[89]|1[3-9].|2..)$ ]] ||
    fail "a new pod has $(addresses "$newer" | head -n 1)"
remove_sandbox "$kept"
/opt/cni/bin/sublet drain pods 10.77.0.0/25 --wait > "$work/drained" || fail "$(cat "$work/drained")"
# The pod is sticky, but its former address is draining.
again=$(run_sandbox kept 1)
[ "$(addresses "$again" | head -n 1)" != "$at" ] || fail "a recreated pod has $at again"
/opt/cni/bin/sublet drain pods 10.77.0.0/25 --undo > /dev/null
remove_sandbox "$again"
remove_sandbox "$newer"
no_leases "after the draining"
row "a draining range" "its pod keeps $at over a restart of containerd, a new pod is outside"

# containerd is killed during RunPodSandbox. A plugin that it has already started continues to run.
plugins_end() {
    ! cat /proc/[0-9]*/comm 2> /dev/null | grep -q -x -E 'bridge|portmap|loopback|sublet'
}

# libcni does not write its cached results atomically. If containerd is killed during such a write, it cannot
# remove the sandbox until the incomplete file is deleted.
forget_torn_results() {
    local result
    for result in /var/lib/cni/results/*; do
        jq -e . "$result" > /dev/null 2>&1 || rm -f "$result"
    done
}

# Does what a kubelet does before it creates a pod's sandbox, and whenever sandboxes are not ready.
tidy() {
    local id pod attempt state
    while read -r id pod attempt state; do
        if [ "$state" = NOTREADY ] || [ "$pod" = "$1" ]; then
            remove_sandbox "$id" || { forget_torn_results && remove_sandbox "$id"; } ||
                fail "sandbox $id ($pod, attempt $attempt) stays"
        fi
    done < <(sandboxes)
}

begin=$(date +%s%3N)
probe=$(run_sandbox probe 0)
usual=$(($(date +%s%3N) - begin))
remove_sandbox "$probe"
rounds=200
pods=20
answered=0
begun=0
leased=0
for n in $(seq $rounds); do
    pod=pod$((n % pods))
    tidy $pod
    run_sandbox $pod "$n" > "$work/answer" 2> "$work/refusal" &
    caller=$!
    sleep "$(printf '0.%03d' $((RANDOM % usual)))"
    containerd_ends KILL
    if wait $caller; then answered=$((answered + 1)); fi
    until_true 30 "the plugins end" plugins_end
    kubelet_starts
    half=$(sandboxes | awk '$4 == "NOTREADY" { print $1; exit }')
    if [ -n "$half" ]; then
        begun=$((begun + 1))
        [ -z "$(addresses "$half")" ] || leased=$((leased + 1))
    fi
done
[ "$answered" -lt $((rounds * 9 / 10)) ] || fail "$answered of $rounds were not killed: too late"
tidy none
sandboxes > "$work/sandboxes"
ready=$(grep -c READY "$work/sandboxes" || true)
listed=$(cut -d ' ' -f 1 "$work/sandboxes" | jq -R . | jq -s .)
# Every running sandbox has its own addresses.
while read -r id _; do
    has "leases of $id" "$(addresses "$id" | wc -l)" 2
done < "$work/sandboxes"
has "addresses held twice" "$(leases | jq '[.[].address] | length - (unique | length)')" 0
# Debian's containerd records a sandbox before it creates the network of the sandbox. Therefore an incomplete
# sandbox is listed, and a kubelet removes it. Older versions created the network first, and could leave
# leases of sandboxes that are not listed; this test makes such leases. The runtime sends no DEL for them, but
# a GC with the list frees them.
sublet_cni() {
    jq "$3" /etc/cni/net.d/10-pods.conflist |
        env CNI_COMMAND="$1" CNI_CONTAINERID="$2" CNI_NETNS=/run/netns/none CNI_IFNAME=eth0 \
            CNI_PATH=/opt/cni/bin /opt/cni/bin/sublet
}
unlisted() {
    leases | jq --argjson listed "$listed" \
        '[.[].containerID | select(IN($listed[]) | not)] | unique | length'
}
row "containerd killed in RunPodSandbox" \
    "$rounds times: $answered answered, $begun half made, $leased of them with leases"
[ "$leased" -gt 0 ] || fail "none was killed between its lease and its answer"
row "sandboxes that came to be, and leases of nobody" "$ready, $(unlisted)"
sublet_cni ADD orphan '{cniVersion, name, ipam: .plugins[0].ipam}' > /dev/null
[ "$(unlisted)" -gt 0 ] || fail "the orphan has no lease"
sublet_cni GC "" "{cniVersion: \"1.1.0\", name, ipam: .plugins[0].ipam,
    \"cni.dev/valid-attachments\": [${listed}[] | {containerID: ., ifname: \"eth0\"}]}"
has "leases after GC" "$(leases | jq -c '[.[].containerID] | unique')" "$(jq -c sort <<< "$listed")"
row "one more without a sandbox, then GC with the list" "$(leases | jq length) leases of $ready sandboxes"
while read -r id _; do
    remove_sandbox "$id"
done < "$work/sandboxes"
no_leases "after the kills"
row "all sandboxes removed" "no lease"

# Simulate a reboot: every process ends, interfaces and namespaces disappear, and the files on disk stay.
declare -A former
for pod in a b c gone; do
    # If containerd was killed between creating the folder of a snapshot and recording the snapshot, it later
    # fails to create the same folder.
    if ! id=$(run_sandbox $pod 0 2> "$work/refusal"); then
        cat "$work/refusal" >&2
        left=$(sed -n 's/.*failed to rename: rename [^ ]* \([^ ]*\): file exists.*/\1/p' "$work/refusal")
        rm -rf "${left:?}"
        id=$(run_sandbox $pod 0)
    fi
    former[$pod]=$(addresses "$id" | xargs)
done
containerd_ends KILL
# This only affects processes in this script's own PID namespace.
for pid in /proc/[0-9]*; do
    pid=${pid#/proc/}
    [ "$pid" = $$ ] || [ "$pid" = "$BASHPID" ] || kill -KILL "$pid" 2> /dev/null || true
done
umount --lazy /run
mount -t tmpfs none /run
ip link del cni0
iptables -t nat -F
boot 2
kubelet_starts
[ "$(leases | jq length)" = 0 ] || fail "leases of the last boot are listed: $(leases)"
# The kubelet starts. It stops the dead sandboxes (a DEL of leases that ended with their boot), creates pods
# in any order, and then removes the dead sandboxes.
mapfile -t dead < <(sandboxes | grep NOTREADY | cut -d ' ' -f 1)
has "dead sandboxes" ${#dead[@]} 4
for id in "${dead[@]}"; do
    cri StopPodSandbox "pod_sandbox_id: \"$id\""
done
declare -A sandbox
for pod in c a b; do
    sandbox[$pod]=$(run_sandbox $pod 1)
    has "$pod after the reboot" "$(addresses "${sandbox[$pod]}" | xargs)" "${former[$pod]}"
done
for id in "${dead[@]}"; do
    cri RemovePodSandbox "pod_sandbox_id: \"$id\""
done
has "leases of this boot" "$(leases | jq length)" 6
files=$(find /var/lib/cni/sublet -name 'leases.redb.boot-*' | wc -l)
has "files of boots, this one's and the last one's" "$files" 2
row "reboot: sticky pods, whatever the order" "their addresses, a new file, 6 leases"

# containerd restarts in the same boot: running containers keep their addresses.
containerd_ends TERM
kubelet_starts
new=$(run_sandbox new 0)
for pod in a b c; do
    has "$pod after containerd's restart" "$(addresses "${sandbox[$pod]}" | xargs)" "${former[$pod]}"
done
has "leases" "$(leases | jq length)" 8

# gc asks the CRI runtime through crictl. If a sandbox is lost, its lease is kept as long as its network
# namespace exists.
cat > "$work/crictl" << END
#!/bin/sh
cat $work/pods.json
END
chmod +x "$work/crictl"
sandboxes | awk -v lost="${sandbox[c]}" '$1 != lost { print $1 }' |
    jq -R '{id: .}' | jq -s '{items: .}' > "$work/pods.json"
collect() {
    /opt/cni/bin/sublet gc --crictl="$work/crictl" --grace 0s --yes -o json | jq -r --arg id "${sandbox[c]}" \
        '[.[] | select(.containerID == $id) | "\(.verdict) \(.freed)"] | unique | join(", ")'
}
has "a sandbox that left its namespace behind" "$(collect)" "cannotTell false"
netns=$(of "${sandbox[c]}" netns)
kill -KILL "$(ctr -n k8s.io task ls | awk -v id="${sandbox[c]}" '$1 == id { print $2 }')"
umount "$netns"
rm "$netns"
has "once its namespace is removed" "$(collect)" "lost true"
has "leases of the sandboxes that it knows" "$(leases | jq length)" 6
row "a sandbox that the runtime has lost, gc --crictl" "kept with its namespace, freed without"

# The store is lost while pods run. `sublet import cni-cache` leases their addresses again from libcni's
# cached results, before a new pod can get one of the addresses.
before=$(leases | jq -c '[.[] | {address, containerID, ifname, netns, podName}] | sort')
rm /var/lib/cni/sublet/leases.redb*
[ "$(leases | jq length)" = 0 ] || fail "the store is not lost"
/opt/cni/bin/sublet import cni-cache > "$work/imported" || fail "cni-cache: $(cat "$work/imported")"
after=$(leases | jq -c '[.[] | {address, containerID, ifname, netns, podName}] | sort')
has "leases from the cached results" "$after" "$before"
another=$(run_sandbox another 0)
has "addresses held twice" "$(leases | jq '[.[].address] | length - (unique | length)')" 0
row "the store is lost, import cni-cache" "$(jq length <<< "$after") leases of running pods are back"
for id in "$new" "$another" "${sandbox[@]}"; do
    remove_sandbox "$id"
done
no_leases "the end"
no_links "the end"
row "containerd restarted in the same boot" "all kept, then removed: no lease, no link"
containerd_ends TERM
table

#!/usr/bin/env bash
# Runs typical situations of operators, using only the commands in docs/: a full range, a stale lease, a wrong
# configuration, a damaged file, the change from host-local and back, who held an address, addresses for a
# load balancer, a larger range while containers run, backup and restore, upgrade, uninstall.
#
# A scenario may run a command only if its section of the documentation shows this command. It may not run
# more commands than the section shows.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/e2e/common.sh

if [ "${1-}" != inside ]; then
    need ip=iproute2 jq=jq unshare=util-linux flock=util-linux setpriv=util-linux
    [ -x /usr/lib/cni/host-local ] || need /usr/lib/cni/host-local=containernetworking-plugins
    [ -x bin/sublet ] || scripts/build.sh
    enter "$@"
fi

own_folders
store=/var/lib/cni/sublet/leases.redb
conf=/etc/cni/net.d/10-web.conf
plugin=/opt/cni/bin/sublet

# scenario TITLE FILE HEADING: starts a scenario. Its commands are those that FILE shows below HEADING.
scenario() {
    [ -z "${title-}" ] || row "$title" "$(wc -l < "$work/used") of ${#shown[@]} commands"
    title=$1
    : > "$work/used"
    mapfile -t shown < <(awk -v head="$3" '
        /^#+ / { inside = ($0 == head) }
        inside && /^    [.a-z]/ { print substr($0, 5) }' "docs/$2")
    [ ${#shown[@]} -gt 0 ] || fail "docs/$2 has no commands below $3"
    for name in $(ip netns list | awk '{ print $1 }'); do
        ip netns delete "$name"
    done
    rm -rf /var/lib/cni /etc/cni/net.d/*
}

# op WORD ...: runs a command. Fails if the scenario's section of the documentation does not show a command
# with this name, subcommand and options.
op() {
    local line word known
    # Record the command in a file, because this function may run in a subshell.
    echo "$*" >> "$work/used"
    [ "$(wc -l < "$work/used")" -le ${#shown[@]} ] || fail "$title: more commands than its section shows"
    for line in "${shown[@]}"; do
        line=" ${line%%#*} "
        known=yes
        for word in "$@"; do
            case $word in
                # The script adds these options, because the leases of the test are younger than a minute.
                --json | --yes | --grace) ;;
                "$1" | "$2" | --*) [[ $line == *" $word "* ]] || known= ;;
            esac
        done
        [ -z "$known" ] || break
    done
    [ -n "$known" ] || fail "$title: its section does not show: $*"
    PATH=/opt/cni/bin:$PATH "$@"
}

# network SUBNET [KEY VALUE ...]: writes the configuration of network web.
network() {
    local more=${2-'{}'}
    jq -n --arg subnet "$1" --argjson more "$more" '{cniVersion: "1.0.0", name: "web", type: "bridge",
        ipam: ({type: "sublet", subnet: $subnet} + $more)}' > "$conf"
}

# cni COMMAND CONTAINER: calls the plugin as a runtime does. An ADD creates the container's network namespace.
cni() {
    [ "$1" != ADD ] || [ -e "/run/netns/$2" ] || ip netns add "$2"
    CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2 CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \
        CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=$2" \
        "${program-$plugin}" < "$conf" 2> "$work/stderr"
}

# add CONTAINER: adds the container and prints its address.
add() {
    cni ADD "$1" | jq -r '.ips[0].address | split("/")[0]'
}

# is WHAT EXPECTED SEEN: fails if the values differ.
is() {
    [ "$2" = "$3" ] || fail "$title: $1: expected $2, got $3"
}

# code COMMAND CONTAINER: prints the error code of a call that must fail.
code() {
    if cni "$@" > "$work/answer"; then
        fail "$title: $1 $2 succeeded"
    fi
    jq .code "$work/answer"
}

holder() {
    /opt/cni/bin/sublet list --json | jq -r --arg at "$1" '.[] | select(.address == $at) | .containerID'
}

scenario "a range is full" operating.md "### A range is full"
network 10.1.2.0/29
for container in c1 c2 c3 c4 c5; do
    add "$container" > /dev/null
done
is "ADD" 100 "$(code ADD c6)"
[[ $(jq -r .msg "$work/answer") == *web*"sublet gc --dry-run"* ]] || fail "$title: $(cat "$work/answer")"
# Users other than root get a message that says, once, to run the command as root.
for command in list "check $conf"; do
    # shellcheck disable=SC2086
    told=$(setpriv --reuid 65534 --regid 65534 --clear-groups "$plugin" $command 2>&1) || true
    is "$command" 1 "$(grep -o 'run the command as root' <<< "$told" | wc -l)"
done
is "free" 0 "$(op sublet pools --network web --json | jq '.[0].free')"
# Two containers are gone without a DEL.
ip netns delete c2
ip netns delete c4
is "lost" 2 "$(op sublet gc --dry-run --grace 0s --json | jq '[.[] | select(.verdict == "lost")] | length')"
is "freed" 2 "$(op sublet gc --yes --grace 0s --json | jq '[.[] | select(.freed)] | length')"
add c6 > /dev/null
add c7 > /dev/null
is "ADD" 100 "$(code ADD c8)"
network 10.1.2.0/28
is "errors" 0 "$(op sublet check /etc/cni/net.d --json | jq '.errors + .warnings')"
add c8 > /dev/null

scenario "a leaked address" operating.md "### An address is leased to a container that is gone"
network 10.1.2.0/24
leaked=$(add gone)
live=$(add live)
ip netns delete gone
is "explained" "gone gone" \
    "$(op sublet explain "$leaked" --json | jq -r '.[0] | .lease.containerID + " " + .container')"
is "verdicts" "alive lost" \
    "$(op sublet gc --dry-run --grace 0s --json | jq -r '[.[].verdict] | sort | join(" ")')"
is "freed" true "$(op sublet release "$leaked" --yes --json | jq '.[0].freed')"
is "still leased" live "$(holder "$live")"

scenario "a wrong configuration" operating.md "### Containers do not start after a configuration was changed"
network 10.70.1.0/24 '{"rangeStart": "10.70.1.200", "rangeEnd": "10.70.1.20", "persist": "never"}'
mkfifo /etc/cni/net.d/00-pipe.conf
is "ADD" 7 "$(code ADD c1)"
report=$(op sublet check /etc/cni/net.d --json) && fail "$title: no error was found"
is "errors" 3 "$(jq .errors <<< "$report")"
is "located" true "$(jq '[.files[1].findings[] | .line > 1] | all' <<< "$report")"
is "place" ipam.persist,ipam.rangeStart \
    "$(jq -r '[.files[1].findings[].place] | sort | join(",")' <<< "$report")"

scenario "a damaged file" operating.md "## A damaged lease file"
network 10.1.2.0/24 '{"persist": "disk"}'
for n in $(seq 30); do
    add "c$n" > /dev/null
done
dd if=/dev/urandom of="$store" bs=4096 seek=1 count=1 conv=notrunc status=none
is "ADD" 104 "$(code ADD c31)"
report=$(op sublet doctor --json) && fail "$title: the doctor found nothing"
is "repairable" true "$(jq '[.problems[].repairable] | any' <<< "$report")"
op sublet doctor --repair --yes > "$work/repaired" 2>&1 || true
[ -n "$(find /var/lib/cni/sublet -name 'leases.redb.damaged-*')" ] || fail "$title: no copy was kept"
before=$(leases | jq length)
# Every address that is known to be in use must be leased or reserved. A new container therefore gets a
# different address.
new=$(add c31)
is "addresses" $((before + 1)) "$(leases | jq '[.[].address] | unique | length')"
is "holder" c31 "$(holder "$new")"

scenario "from host-local" moving.md "## From host-local"
network 10.1.2.0/24
program=/usr/lib/cni/host-local
before=$(add c1)
add c2 > /dev/null
unset program
is "taken" 2 "$(op sublet import host-local --dry-run --json | jq '.[0].taken | length')"
is "taken" 2 "$(op sublet import host-local --json | jq '.[0].taken | length')"
is "address" "$before" "$(add c1)"
op sublet export host-local /var/lib/cni/networks > /dev/null
is "leases here" 0 "$(leases | jq length)"
program=/usr/lib/cni/host-local
is "file" c1 "$(head -n 1 "/var/lib/cni/networks/web/$before" | tr -d '\r')"
cni DEL c1
add c3 > /dev/null
unset program

scenario "who had it last Tuesday" operating.md "### Who held an address last Tuesday"
network 10.1.2.0/24 '{"strategy": "lowest"}'
address=$(add first)
sleep 1.1
then=$(date --utc +%FT%TZ)
sleep 1.1
cni DEL first
is "address" "$address" "$(add second)"
is "holder then" first "$(op sublet history --at "$then" --json |
    jq -r --arg at "$address" '.[] | select(.address == $at) | .containerID')"
is "events" "added first,deleted first,added second" "$(op sublet history "$address" --since 7d --json |
    jq -r 'map("\(.event) \(.containerID)") | join(",")')"

scenario "addresses for a load balancer" operating.md "### Addresses for a load balancer"
network 10.1.2.0/24
add c1 > /dev/null
is "reserved" 16 "$(op sublet reserve web 10.1.2.240/28 --note "load balancer" --owner ops --json |
    jq '.addresses | length')"
is "notes" "load balancer ops" "$(op sublet list --network web --kind reserved --json |
    jq -r '[.[] | "\(.note) \(.holder)"] | unique | join(",")')"
is "rows" 2 "$(PATH=/opt/cni/bin:$PATH sublet list --network web --kind reserved | wc -l)"
CNI_ARGS='' op sublet unreserve web 10.1.2.240/28 --yes --json | jq -e '.addresses | length == 16' > /dev/null
is "reserved" 0 "$(leases | jq '[.[] | select(.kind == "reserved")] | length')"

scenario "a /24 becomes a /23" operating.md "### From a /24 to a /23 while containers run"
network 10.1.2.0/24 '{"strategy": "lowest"}'
before=$(add c1)
network 10.1.2.0/23 '{"strategy": "lowest"}'
is "findings" 0 "$(op sublet check /etc/cni/net.d --json | jq '.errors + .warnings')"
is "address" "$before" "$(add c1)"
add c2 > /dev/null
is "size" 509 "$(op sublet pools --network web --json | jq '.[0].size')"
is "used" 2 "$(leases | jq length)"

scenario "backup and restore" operating.md "## Backup and restore"
network 10.1.2.0/24 '{"persist": "disk"}'
for container in c1 c2 c3; do
    add "$container" > /dev/null
done
PATH=/opt/cni/bin:$PATH sublet reserve web 10.1.2.100 > /dev/null
before=$(leases | jq -S .)
mkdir -p /var/backups
op flock "$store.lock" cp -a "$store" "$store.policy" /var/backups/
op sublet export jsonl "$work/leases.jsonl" > /dev/null
cni DEL c1
rm -r /var/lib/cni/sublet
mkdir -p /var/lib/cni/sublet
cp -a /var/backups/leases.redb /var/backups/leases.redb.policy /var/lib/cni/sublet/
is "restored" "$before" "$(leases | jq -S .)"
rm -r /var/lib/cni/sublet
op sublet import jsonl "$work/leases.jsonl" > /dev/null
is "imported" "$(jq -S 'map([.address, .containerID, .kind])' <<< "$before")" \
    "$(leases | jq -S 'map([.address, .containerID, .kind])')"

scenario "upgrade" operating.md "## Upgrade"
network 10.1.2.0/24
before=$(add c1)
(cd bin && op ./sublet install --to /opt/cni/bin --bin "$work/bin" > /dev/null)
is "address" "$before" "$(add c1)"
PATH=/opt/cni/bin:$PATH sublet doctor > /dev/null

scenario "uninstall" operating.md "## Uninstall"
plugins host-local
scripts/install.sh --bin "$work/bin" --as host-local > /dev/null
program=/opt/cni/bin/host-local
network 10.1.2.0/24 '{"type": "host-local"}'
before=$(add c1)
is "leases" 1 "$(op sublet list --json | jq length)"
op sublet uninstall --to /opt/cni/bin --bin "$work/bin" > /dev/null
is "programs" host-local "$(find /opt/cni/bin "$work/bin" -mindepth 1 -printf '%f\n')"
op rm -r /var/lib/cni/sublet
# host-local must have its name and its lease back, and must not lease the address a second time.
[ -e "/var/lib/cni/networks/web/$before" ] || fail "$title: host-local does not have $before"
[ "$(add c2)" != "$before" ] || fail "$title: $before was leased twice"
cni DEL c1
[ ! -e "/var/lib/cni/networks/web/$before" ] || fail "$title: host-local did not free $before"
unset program

row "$title" "$(wc -l < "$work/used") of ${#shown[@]} commands"
table

#!/usr/bin/env bash
# Functions that the cluster scripts share: hosts and servers, each in a network namespace of its own, the
# faults, and the check of the histories. Sourced after common.sh. The script that sources this file must
# define these functions:
#   launch N          starts server N in its namespace and sets pid[N]
#   leader            prints the number of the leader, or nothing
#   store             prints the `store` of a configuration
#   keys              prints all keys of the store, without the prefix
#   alone FOLDER      starts a single server at 127.0.0.1 with its data in FOLDER, sets pid[alone]
#   alone_store       prints the `store` of that server
#   stuff             writes half a megabyte to that server; fails if the write is refused
set -euo pipefail

work=${work-}
# The path of examples/consistency, which the outer script has built. It runs the clients, and as the judge it
# checks the clients' histories for contradictions.
consistency=${3-}
hosts="1 2 3 4"
servers="1 2 3"
declare -A pid
# The time limit of a request to the servers, in seconds, as in the store's configuration.
timeout=3

# Builds examples/consistency with the profile of the tests, and prints its path.
built() {
    cargo build --locked --quiet --example consistency
    realpath "${CARGO_TARGET_DIR:-target}/debug/examples/consistency"
}

# lay_out: makes the hosts h1, h2, ... with the addresses 10.99.0.11, 10.99.0.12, ..., each with a bridge, and
# the servers s1, s2, ... with the addresses 10.99.0.21, 10.99.0.22, ... All are in one layer 2 network.
lay_out() {
    local i name
    # `ip netns` stores names in /run, which own_folders has emptied.
    ip link add under type bridge
    ip link add over type bridge
    ip link set under up
    ip link set over up
    ip addr add 10.99.0.1/24 dev under
    for name in h1 h2 h3 h4 s1 s2 s3; do
        i=${name#?}
        ip netns add "$name"
        ip link add "$name" type veth peer name eth0 netns "$name"
        ip link set "$name" master under up
        case $name in
            h*) ip -n "$name" addr add "10.99.0.1$i/24" dev eth0 ;;
            s*) ip -n "$name" addr add "10.99.0.2$i/24" dev eth0 ;;
        esac
        ip -n "$name" link set eth0 up
        ip -n "$name" link set lo up
    done
    for i in $hosts; do
        ip -n "h$i" link add cni0 type bridge
        ip -n "h$i" link set cni0 up
        ip link add "o$i" type veth peer name over netns "h$i"
        ip link set "o$i" master over up
        ip -n "h$i" link set over master cni0 up
    done
    for i in $servers; do launch "$i"; done
}

conf() {
    cat << EOF
{"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0", "ipam": {"type": "sublet",
 "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]], "store": $(store)}}
EOF
}

# call HOST VERB CONTAINER [PROGRAM]: calls the plugin as a runtime on that host does.
call() {
    NODE_ID=h$1 CNI_COMMAND=$2 CNI_CONTAINERID=$3 CNI_NETNS=/run/netns/$3 CNI_IFNAME=eth0 \
        CNI_PATH=/opt/cni/bin ip netns exec "h$1" "/opt/cni/bin/${4-sublet}" <<< "$conf"
}

# insist HOST VERB CONTAINER: repeats the call as long as it fails with "try again".
insist() {
    local answer end=$((SECONDS + 60))
    until answer=$(call "$@"); do
        if [ "$(jq .code <<< "$answer")" != 11 ] || [ $SECONDS -ge $end ]; then fail "$*: $answer"; fi
        sleep 0.1
    done
    echo "$answer"
}

# refused HOST CONTAINER WHAT: an ADD must fail with "try again" before its time limit.
refused() {
    local answer begin took
    begin=$(date +%s%N)
    if answer=$(call "$1" ADD "$2"); then fail "$3: $answer"; fi
    took=$((($(date +%s%N) - begin) / 1000000))
    [ "$(jq .code <<< "$answer")" = 11 ] || fail "$3: $answer"
    [ $took -le $((timeout * 1000 + 1000)) ] || fail "$3: $took ms for $timeout s"
    row "$3" "error 11 after $took ms"
}

# storm FIRST LAST: adds the containers with the numbers FIRST to LAST on all hosts at the same time. Fails if
# one of the ADDs fails.
storm() {
    local host i one waiting=()
    for host in $hosts; do
        for i in $(seq "$1" "$2"); do
            insist "$host" ADD "c-$host-$i" > "$work/add-$host-$i" &
            waiting+=($!)
        done
    done
    for one in "${waiting[@]}"; do wait "$one" || fail "an ADD of many failed"; done
}

listed() {
    /opt/cni/bin/sublet --store "$(store)" list --json
}

listed_to() {
    listed > "$1"
}

# differ COUNT WHAT: fails unless COUNT containers have different addresses and `sublet list` lists all of
# them.
differ() {
    local seen
    seen=$(jq -r '.ips[].address' "$work"/add-* | sort -u | wc -l)
    [ "$seen" = $((2 * $1)) ] || fail "$2: $seen addresses for $1 containers"
    # Repeat the list, because it fails while the servers elect a leader.
    until_true 30 "a list" listed_to "$work/now"
    seen=$(jq length "$work/now")
    [ "$seen" = $((2 * $1)) ] || fail "$2: $seen leases are listed for $1 containers"
    row "$2" "$1 containers, $((2 * $1)) addresses"
}

# sound [STORE]: fails if records contradict each other. A full range is not a contradiction.
sound() {
    local report found
    report=$(/opt/cni/bin/sublet doctor --json --store "${1-$(store)}") || true
    [ -n "$report" ] || fail "doctor printed nothing"
    found=$(jq -r '.problems[] | select(.place | startswith("range ") | not) | "\(.place): \(.what)"' \
        <<< "$report") || fail "doctor: $report"
    [ -z "$found" ] || fail "doctor: $found"
}

# bare: fails if there are leases. Only permanent records may be left, such as nodes, records of imports,
# cursors and history.
bare() {
    local left
    left=$(keys | grep -v -e ^node/ -e ^machine/ -e ^adopted/ -e ^old/ -e ^cursor/ -e ^ranges/ -e ^past/ || true)
    [ -z "$left" ] || fail "keys are left: $left"
    # Each network keeps a limited number of events. If many hosts write at the same time, it keeps a few
    # more.
    left=$(keys | grep -c ^past/ || true)
    [ "$left" -gt 0 ] || fail "nothing of what happened is written down"
    [ "$left" -le 5000 ] || fail "$left records of what happened are left"
    [ "$(keys | grep -c ^node/)" -gt 0 ] || fail "no record of a node is among the keys"
}

halt() {
    kill -KILL "${pid[$1]}"
    wait "${pid[$1]}" 2> /dev/null || true
}

# Waits until a leader has been elected, and prints its number.
led() {
    local one
    for _ in $(seq 150); do
        one=$(leader)
        if [ -n "$one" ]; then
            echo "$one"
            return
        fi
        sleep 0.2
    done
    fail "no leader"
}

steady() {
    [ -n "$(leader)" ] && listed > /dev/null
}

# talk: starts two containers on every host, with the bridge plugin. Each container must reach all others.
talk() {
    local host n one other address
    for host in $hosts; do
        for n in 1 2; do
            ip netns add "t-$host-$n"
            ip -n "t-$host-$n" link set lo up
            call "$host" ADD "t-$host-$n" bridge > "$work/talk-$host-$n" ||
                fail "bridge: $(cat "$work/talk-$host-$n")"
        done
    done
    for one in "$work"/talk-*; do
        for other in "$work"/talk-*; do
            for address in $(jq -r '.ips[].address' "$other"); do
                ip netns exec "t-${one#*/talk-}" ping -c 1 -i 0.2 -W 5 "${address%/*}" > /dev/null ||
                    fail "${one##*/} does not reach ${other##*/} at $address"
            done
        done
    done
    for host in $hosts; do
        for n in 1 2; do
            call "$host" DEL "t-$host-$n" bridge
            ip netns del "t-$host-$n"
        done
    done
    [ "$(listed)" = "[]" ] || [ "$(listed | jq length)" = 0 ] || fail "leases are left"
    row "bridge on four hosts" "8 containers, every one reaches every one"
}

# befall: causes a sequence of faults while containers are added.
befall() {
    local one back
    storm 1 8
    differ 32 "four hosts at once"

    one=$(led)
    halt "$one"
    storm 9 11
    differ 44 "the leader is killed"
    launch "$one"
    until_true 30 "a leader" steady

    # Kill the leader while transactions are in progress.
    one=$(led)
    storm 12 18 &
    back=$!
    sleep 0.3
    halt "$one"
    wait $back
    differ 72 "the leader is killed in a storm"
    launch "$one"
    until_true 30 "a leader" steady

    one=$(led)
    kill -STOP "${pid[$one]}"
    storm 19 20
    differ 80 "the leader is paused"
    kill -CONT "${pid[$one]}"
    until_true 30 "a leader" steady

    one=$(led)
    ip link set "s$one" down
    storm 21 22
    differ 88 "the leader is cut off"
    ip link set "s$one" up
    until_true 30 "a leader" steady

    kill -STOP "${pid[1]}" "${pid[2]}"
    refused 3 lost "two of three are paused"
    kill -CONT "${pid[1]}" "${pid[2]}"
    back=$(insist 3 ADD lost)
    [ "$(insist 3 ADD lost)" = "$back" ] || fail "the repeated ADD gets another address"
    insist 3 DEL lost
    differ 88 "the ADD that was lost is found again"

    ip link set h2 down
    refused 2 cut "a host is cut off"
    insist 1 ADD c-1-99 > "$work/add-1-99"
    ip link set h2 up
    insist 2 DEL cut
    differ 89 "the other hosts went on"

    for one in $servers; do halt "$one"; done
    refused 1 down "all servers are down"
    for one in $servers; do launch "$one"; done
    until_true 60 "a leader" steady
    differ 89 "all servers were down"

    for one in "$work"/add-*; do
        back=${one##*/add-}
        insist "${back%%-*}" DEL "c-$back"
    done
    insist 1 DEL down
    rm "$work"/add-*
    [ "$(listed | jq length)" = 0 ] || fail "leases are left: $(listed)"
    sound
    bare
    row "DEL of all" "nothing is left"
}

# faults END: causes one fault after another until END. The last fault is repaired before END. Sets round.
faults() {
    local what end=$1
    round=0
    while [ $SECONDS -lt $((end - 4)) ]; do
        round=$((round + 1))
        what=$((round % 3 + 1))
        case $((round % 5)) in
            0) halt $what && sleep 1 && launch $what ;;
            1) kill -STOP "${pid[$what]}" && sleep 1.5 && kill -CONT "${pid[$what]}" ;;
            2) ip link set s$what down && sleep 1.5 && ip link set s$what up ;;
            3) ip link set h$what down && sleep 1 && ip link set h$what up ;;
            4) kill -STOP "${pid[1]}" "${pid[2]}" && sleep 1 && kill -CONT "${pid[1]}" "${pid[2]}" ;;
        esac
        sleep 1.5
    done
}

# judged SECONDS: runs sixteen clients on four hosts while servers and hosts are killed, paused and cut off.
# Then checks the histories of the clients.
judged() {
    local host one end=$((SECONDS + $1)) waiting=() what conf
    # All containers have this network namespace, because doctor checks that namespaces exist.
    ip netns add consistency
    for host in $hosts; do
        ip netns exec "h$host" "$consistency" run "$(store)" --node "h$host" --clients 4 \
            --seconds "$1" --out "$work/history-$host" &
        waiting+=($!)
    done
    faults $end
    for one in "${waiting[@]}"; do wait "$one" || fail "a client failed"; done
    listed > "$work/listed"
    histories "$work/listed" > "$work/history-list"
    what=$("$consistency" judge --at-least $(($1 * 50)) "$work"/history-*) ||
        fail "the history is not sound; it is kept in $(kept "$work"/history-* "$work/listed")"
    row "16 clients, $round faults" "$what"
    case $what in
        *" 0 late") ;;
        *) fail "leases of containers that were deleted; the history is kept in $(kept "$work"/history-* "$work/listed")" ;;
    esac
    sound
    conf=$(jq -cn --argjson store "$(store)" '{cniVersion: "1.1.0", name: "consistency",
        type: "bridge", ipam: {type: "sublet", subnet: "10.77.0.0/27", store: $store}}')
    for one in $(jq -r '.[].containerID' "$work/listed"); do
        host=${one%%-*}
        insist "${host#h}" DEL "$one"
    done
    bare
    row "DEL of what the clients kept" "nothing is left"
    ip netns del consistency
    rm "$work"/history-*
}

# kept FILE...: copies the files, as evidence of a failure, to a folder that is not removed when this script
# ends. Prints the folder.
kept() {
    local folder
    folder=$(mktemp -d /tmp/sublet-history-XXXXXX)
    cp "$@" "$folder"
    echo "$folder"
}

# Prints the rows of the store's list as events for the judge.
histories() {
    jq -c '.[] | {container: .containerID, ask: "LIST", asked: 0, answered: 0,
        answer: {address: "\(.address)/\(.prefix)"}}' "$1"
}

# pools_judged SECONDS: runs sixteen clients of subletd on four hosts, which share a pool. In addition to the
# other faults, each subletd is killed repeatedly. Then checks the histories of the clients.
pools_judged() {
    local host one end=$((SECONDS + $1)) waiting=() what store
    store=$(store | jq -c '.[].prefix = "pools"')
    for host in $hosts; do
        ip netns exec "h$host" "$consistency" pools "$PWD/bin/subletd" "$store" --node "h$host" \
            --clients 4 --seconds "$1" --kill-every 4 --out "$work/pools-$host.log" &
        waiting+=($!)
    done
    faults $end
    for one in "${waiting[@]}"; do wait "$one" || fail "a client of a pool failed"; done
    until_true 30 "a leader" steady
    pools_listed "$store" > "$work/pools-list.log"
    what=$("$consistency" judge --at-least $(($1 * 20)) "$work"/pools-*.log) ||
        fail "the history of the pool is not sound; it is kept in $(kept "$work"/pools-*.log)"
    row "16 clients of a pool, $round faults" "$what"
    sound "$store"
    rm "$work"/pools-*.log
}

# Prints the store's records of the pool as events for the judge.
pools_listed() {
    /opt/cni/bin/sublet --store "$1" list --json |
        jq -c '.[] | select(.kind != "gateway") | {container: "", ask: "LIST", asked: 0, answered: 0,
            answer: {address: "\(.address)/\(.prefix)"}}'
    /opt/cni/bin/sublet --store "$1" export jsonl |
        jq -c '.users[]? | {container: .node, ask: "LIST", asked: 0, answered: 0,
            answer: {uses: .count}}'
}

# noticed STORE SERVER: runs the same clients through a proxy that removes all comparisons from the
# transactions. Then addresses are leased twice, and the judge must find this. Otherwise it would find no
# fault of sublet either.
noticed() {
    local host one waiting=()
    "$consistency" blind 10.99.0.1:9999 "$2" &
    pid[blind]=$!
    sleep 0.5
    for host in $hosts; do
        ip netns exec "h$host" "$consistency" run "$1" --node "h$host" --clients 4 --seconds 3 \
            --out "$work/blind-$host" 2> /dev/null &
        waiting+=($!)
    done
    # Ignore the exit status, because a client may detect the damage and fail.
    for one in "${waiting[@]}"; do wait "$one" || true; done
    if "$consistency" judge "$work"/blind-* > "$work/verdict" 2>&1; then
        fail "nobody notices that nothing is compared: $(cat "$work/verdict")"
    fi
    grep -q 'two holders' "$work/verdict" || fail "the control: $(cat "$work/verdict")"
    row "the control: no comparison" "$(cut -d' ' -f2- "$work/verdict")"
    waiting=()
    rm "$work"/blind-*
    for host in $hosts; do
        ip netns exec "h$host" "$consistency" pools "$PWD/bin/subletd" "$1" --node "h$host" \
            --clients 4 --seconds 3 --out "$work/blind-$host.log" 2> /dev/null &
        waiting+=($!)
    done
    for one in "${waiting[@]}"; do wait "$one" || true; done
    if "$consistency" judge "$work"/blind-*.log > "$work/verdict" 2>&1; then
        fail "nobody notices that no lease of a pool is compared: $(cat "$work/verdict")"
    fi
    grep -q 'two holders' "$work/verdict" || fail "the control of pools: $(cat "$work/verdict")"
    row "the control: no comparison of pools" "$(cut -d' ' -f2- "$work/verdict")"
    halt blind
}

# filled: tests a single server that has no disk space left.
filled() {
    local conf answer i
    mkdir "$work/disk"
    mount -t tmpfs -o size=200m none "$work/disk"
    alone "$work/disk/data"
    conf=$(conf | jq -c --argjson store "$(alone_store)" '.ipam.store = $store')
    until_true 30 "a server alone" insist_alone ADD first
    for i in $(seq 2000); do
        stuff "$i" > /dev/null 2>&1 || break
        [ "$i" -lt 2000 ] || fail "the disk does not fill"
    done
    # Fill the rest of the disk, because the server may have left some space.
    dd if=/dev/zero of="$work/disk/rest" bs=64k 2> /dev/null || true
    for i in $(seq 50); do
        answer=$(alone_call ADD "full-$i") || break
        [ "$i" -lt 50 ] || answer=
    done
    if [ -n "$answer" ] && [ "$(jq .code <<< "$answer")" != 11 ]; then fail "full disk: $answer"; fi
    kill -KILL "${pid[alone]}" 2> /dev/null || true
    wait "${pid[alone]}" 2> /dev/null || true
    rm "$work/disk/rest"
    mount -o remount,size=1g "$work/disk"
    alone "$work/disk/data"
    until_true 30 "a server with room again" insist_alone ADD after
    [ "$(alone_call ADD first | jq -c .ips)" = "$(cat "$work/first")" ] || fail "the first lease is lost"
    row "the server's disk is full" "error 11; with room again it goes on"
    kill -KILL "${pid[alone]}"
    wait "${pid[alone]}" 2> /dev/null || true
    umount "$work/disk"
}

alone_call() {
    NODE_ID=alone CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2 CNI_IFNAME=eth0 \
        CNI_PATH=/opt/cni/bin /opt/cni/bin/sublet <<< "$conf"
}

insist_alone() {
    local answer
    answer=$(alone_call "$@") || return 1
    [ "$2" != first ] || jq -c .ips <<< "$answer" > "$work/first"
}


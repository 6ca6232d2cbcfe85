#!/usr/bin/env bash
# Runs three etcd members and four hosts, each in a network namespace of its own. The containers of all hosts
# must reach each other. While many clients run, members are killed, paused and cut off; then the histories of
# the clients are checked. Needs root; bin/sublet must be built. Installs missing packages. Usage: e2e-etcd.sh
# [SECONDS [PROGRAM]]. SECONDS is how long the clients run, and PROGRAM is the etcd program.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/e2e/common.sh
source scripts/e2e/common.sh
# shellcheck source=scripts/e2e/cluster.sh
source scripts/e2e/cluster.sh
if [ "${1-}" != inside ]; then
    need etcd=etcd-server jq=jq curl=curl ip=iproute2 ping=iputils-ping
    consistency=$(built)
    enter "$consistency" "${1-30}" "${2-etcd}"
fi
etcd=$5

all=http://10.99.0.21:2379,http://10.99.0.22:2379,http://10.99.0.23:2379
launch() {
    ip netns exec "s$1" "$etcd" --name "m$1" --data-dir "$work/m$1" \
        --listen-client-urls "http://10.99.0.2$1:2379,http://127.0.0.1:2379" \
        --advertise-client-urls "http://10.99.0.2$1:2379" \
        --listen-peer-urls "http://10.99.0.2$1:2380" \
        --initial-advertise-peer-urls "http://10.99.0.2$1:2380" --initial-cluster \
        m1=http://10.99.0.21:2380,m2=http://10.99.0.22:2380,m3=http://10.99.0.23:2380 \
        >> "$work/m$1.log" 2>&1 &
    pid[$1]=$!
}
leader() {
    local i status
    for i in $servers; do
        status=$(curl -s -m 1 -d '{}' "http://10.99.0.2$i:2379/v3/maintenance/status") || continue
        if jq -e '.leader == .header.member_id' <<< "$status" > /dev/null; then
            echo "$i"
            return
        fi
    done
}
store() {
    jq -cn --arg all "$all" --arg timeout "${timeout}s" \
        '{etcd: {endpoints: ($all | split(",")), timeout: $timeout}}'
}
keys() {
    jq -n '{key: ("sublet/" | @base64), range_end: ("sublet0" | @base64), keys_only: true}' |
        curl -sf -m 5 -d @- "http://10.99.0.2$(leader):2379/v3/kv/range" |
        jq -r '.kvs[]?.key | @base64d | ltrimstr("sublet/")'
}
alone() {
    "$etcd" --data-dir "$1" --listen-client-urls http://127.0.0.1:2379 \
        --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 \
        --quota-backend-bytes 8589934592 >> "$work/alone.log" 2>&1 &
    pid[alone]=$!
}
alone_store() {
    echo "{\"etcd\": {\"timeout\": \"${timeout}s\"}}"
}
stuff() {
    head -c 500000 /dev/zero | base64 -w 0 |
        jq -Rc --arg key "$(printf 'stuff/%s' "$1" | base64)" '{key: $key, value: .}' |
        curl -sf -m 5 -d @- http://127.0.0.1:2379/v3/kv/put
}

own_folders
plugins bridge
lay_out
conf=$(conf)
until_true 60 "a leader" steady
talk
befall
judged "$4"
pools_judged 25
noticed '{"etcd": {"endpoints": ["http://10.99.0.1:9999"], "prefix": "blind"}}' "10.99.0.2$(leader):2379"
filled
table

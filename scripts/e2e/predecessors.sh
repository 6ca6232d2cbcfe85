#!/usr/bin/env bash
# Serves one connection as gipam or kontena-ipam 0.2.2 does, on standard input and output. It writes the same
# records as these programs: gipam's lease file, or kontena-ipam's keys in the old API of etcd. This script
# was written from the sources of both programs. It implements only what the migration test needs:
# - gipam saves its file every 30 s and when it is stopped; this script saves it after each request;
# - the main pools are 10.70.0.0/16 and fd00:70::/48, and a pool has fewer than ten addresses;
# - the prefix lengths of kontena-ipam's static pools are multiples of 8.
# Usage: predecessors.sh gipam FILE | kontena URL NODE, started by systemd-socket-activate --accept --inetd.
set -euo pipefail
export LC_ALL=C

driver=$1
place=$2
node=${3-}
keys=$place/v2/keys/kontena/ipam

# field NAME: prints a field of the request; nothing if it is absent.
field() {
    jq -r ".$1 // empty" <<< "$body"
}

refuse() {
    jq -cn --arg why "$1" '{Err: $why, Error: $why}'
}

# change PROGRAM: changes gipam's lease file with a jq program, and prints the value that the program assigns
# to .answer.
change() {
    local id after
    id=$(head -c 256 /dev/urandom | base64 -w 0 | tr -dc a-zA-Z0-9 | head -c 16)
    after=$(jq --argjson body "$body" --arg id "$id" "$1" "$place")
    jq 'del(.answer)' <<< "$after" > "$place"
    jq -c .answer <<< "$after"
}

# shellcheck disable=SC2016 # jq's variables
gipam() {
    if [ ! -s "$place" ]; then
        echo '{"v6": "fd00:70::/48", "v6ab": 64, "v6idx": 0, "v4": "10.70.0.0/16", "v4ab": 24, "v4idx": 0,
            "allocated": [], "free": []}' > "$place"
    fi
    case $1 in
        GetCapabilities) echo '{"RequiresMACAddress": true}' ;;
        GetDefaultAddressSpaces) echo '{"LocalDefaultAddressSpace": "", "GlobalDefaultAddressSpace": ""}' ;;
        # Use the first free block of the family. If there is none, use the next block of the main pool.
        RequestPool) change '(if $body.V6 then 6 else 4 end) as $v
            | ([.free[] | select(.v == $v)] | first) as $old
            | if $old then .free -= [$old] | .allocated += [$old]
              elif $v == 4 then .allocated += [{id: $id, v: 4, pool: "10.70.\(.v4idx).0/24", idx: 1,
                  allocated: null, free: null}] | .v4idx += 1
              else .allocated += [{id: $id, v: 6, idx: 1, allocated: null, free: null, pool:
                  (if .v6idx == 0 then "fd00:70::/64" else "fd00:70:0:\(.v6idx)::/64" end)}] | .v6idx += 1
              end
            | .answer = {PoolID: .allocated[-1].id, Pool: .allocated[-1].pool}' ;;
        # Use the address that was freed last. If there is none, use the next address. gipam ignores the
        # requested address.
        RequestAddress) change '(.allocated | map(.id) | index($body.PoolID)) as $at
            | .allocated[$at] |= (if (.free // []) != [] then .allocated += [.free[-1]] | .free |= .[:-1]
                else .allocated += [(.pool | sub("0?/.*"; "")) + "\(.idx)"] | .idx += 1 end)
            | .answer = {Address: (.allocated[$at] | .allocated[-1] + (if .v == 4 then "/24" else "/64" end))}' ;;
        ReleaseAddress) change '(.allocated | map(.id) | index($body.PoolID)) as $at
            | ($body.Address | sub("/.*"; "")) as $address
            | if (.allocated[$at].allocated // []) | index($address)
              then .allocated[$at] |= (.allocated -= [$address] | .free += [$address]) | .answer = {}
              else .answer = {Err: "Returned address not found in block \($body.PoolID)"} end' ;;
        ReleasePool) change '(.allocated | map(.id) | index($body.PoolID)) as $at
            | .free += [.allocated[$at] | .allocated = [] | .free = [] | .idx = 1]
            | del(.allocated[$at]) | .answer = {}' ;;
        *) refuse "404 page not found" ;;
    esac
}

# key METHOD PATH [VALUE]: prints etcd's response; fails if the response is an error.
key() {
    local method=$1 path=$2
    shift 2
    curl -sf -X "$method" "$keys/$path" "$@"
}

value() {
    key GET "$1" | jq -c '.node.value | fromjson'
}

kontena() {
    local name pool address
    case $1 in
        GetCapabilities) echo '{}' ;;
        GetDefaultAddressSpaces)
            echo '{"LocalDefaultAddressSpace": "kontenalocal", "GlobalDefaultAddressSpace": "kontenaglobal"}'
            ;;
        RequestPool)
            name=$(field Options.network)
            if [ -z "$name" ]; then
                refuse "Network can't be nil"
                return
            fi
            if ! pool=$(value "pools/$name"); then
                # KONTENA_IPAM_SUPERNET is 10.80.0.0/12; the test makes one pool in this supernet.
                pool=$(jq -c '(if (.Pool // "") == "" then "10.80.0.0/24" else .Pool end) as $subnet
                    | {subnet: $subnet} + (if (.SubPool // "") == "" then {} else {iprange: .SubPool} end)
                    + {gateway: ($subnet | sub("0/"; "1/"))}' <<< "$body")
                address=$(jq -r .subnet <<< "$pool")
                key PUT "subnets/${address%/*}" --data-urlencode "value={\"address\":\"$address\"}" \
                    -d prevExist=false > /dev/null
                key PUT "pools/$name" --data-urlencode "value=$pool" -d prevExist=false > /dev/null
                key PUT "addresses/$name" -d dir=true > /dev/null
                key PUT "pool-nodes/$name" -d dir=true > /dev/null
                lease "$name" "$(jq -r .gateway <<< "$pool")"
            fi
            key PUT "pool-nodes/$name/$node" -d 'value={}' > /dev/null
            jq -c --arg name "$name" '{PoolID: $name, Pool: .subnet,
                Data: {"com.docker.network.gateway": .gateway}}' <<< "$pool"
            ;;
        RequestAddress)
            name=$(field PoolID)
            pool=$(value "pools/$name")
            address=$(field Address)
            if [ -n "$address" ]; then
                address=$address/$(jq -r '.subnet | sub(".*/"; "")' <<< "$pool")
                if ! lease "$name" "$address"; then
                    refuse "Allocation conflict for address=$address: Create conflict"
                    return
                fi
            else
                # Choose one of the hundred lowest addresses of the range at random.
                until
                    address=$(jq -r --argjson n $((RANDOM % 100 + 2)) '(.subnet | sub(".*/"; "")) as $len
                        | (.iprange // .subnet | sub("0/.*"; "")) + "\($n)/\($len)"' <<< "$pool")
                    lease "$name" "$address"
                do :; done
            fi
            jq -cn --arg address "$address" '{Address: $address}'
            ;;
        ReleaseAddress)
            name=$(field PoolID)
            address=$(field Address)
            # The gateway stays leased as long as the pool exists.
            if ! value "pools/$name" | jq -e --arg a "$address" '.gateway | startswith($a + "/")' > /dev/null
            then
                key DELETE "addresses/$name/$address" > /dev/null || true
            fi
            echo '{}'
            ;;
        ReleasePool)
            name=$(field PoolID)
            pool=$(value "pools/$name")
            address=$(jq -r '.subnet | sub("/.*"; "")' <<< "$pool")
            key DELETE "pool-nodes/$name/$node" > /dev/null
            # This fails if another node uses the pool.
            if key DELETE "pool-nodes/$name?dir=true" > /dev/null; then
                key DELETE "pools/$name" > /dev/null
                key DELETE "addresses/$name?recursive=true" > /dev/null
                key DELETE "subnets/$address" > /dev/null
            fi
            echo '{}'
            ;;
        *) refuse "404 page not found" ;;
    esac
}

# lease POOL ADDRESS/LENGTH: fails if the address is leased.
lease() {
    key PUT "addresses/$1/${2%/*}" --data-urlencode "value={\"address\":\"$2\",\"node\":\"$node\"}" \
        -d prevExist=false > /dev/null
}

while IFS=' ' read -r _ path _; do
    length=0
    while IFS= read -r header && [ "$header" != $'\r' ]; do
        header=${header,,}
        case $header in content-length:*) length=$(tr -dc 0-9 <<< "${header#*:}") ;; esac
    done
    body='{}'
    if [ "$length" -gt 0 ]; then read -r -N "$length" body; fi
    exec 9> "${TMPDIR-/tmp}/predecessor.lock"
    flock 9
    case $path in
        /Plugin.Activate) answer='{"Implements": ["IpamDriver"]}' ;;
        *) answer=$("$driver" "${path#/IpamDriver.}") ;;
    esac
    exec 9>&-
    status=200
    case $answer in '{"Err"'*) status=400 ;; esac
    printf 'HTTP/1.1 %s -\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' \
        "$status" "${#answer}" "$answer"
done

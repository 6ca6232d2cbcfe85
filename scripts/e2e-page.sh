#!/usr/bin/env bash
# Tests the status page in a headless Chromium: with an empty store, with stores of 100 and 65,000 leases
# (with SUBLET_LONG also a million), with two stores, and with a damaged store. tests/page/page.mjs uses the
# page like a user and checks what it shows. With --pictures, the script also renews the screenshots in
# docs/img. Root installs Debian's Chromium, nodejs and npm if they are missing. npm provides playwright-core,
# which controls the browser, and axe-core, which checks the accessibility.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/e2e/common.sh

pictures=
case ${1-} in
'') ;;
--pictures) pictures=$PWD/docs/img ;;
*) fail "usage: scripts/e2e-page.sh [--pictures]" ;;
esac

need chromium=chromium node=nodejs npm=npm curl=curl jq=jq
[ -x bin/subletd ] || scripts/build.sh
cargo build --quiet --locked --example scene
scene=${CARGO_TARGET_DIR:-target}/debug/examples/scene

work=$(mktemp -d)
# Install the npm packages in a copy of the folder, so that no third-party files get into the repository.
cp -r tests/page "$work/driver"
(cd "$work/driver" && npm ci --no-audit --no-fund --loglevel=error)
daemons=()
trap '[ ${#daemons[@]} = 0 ] || kill "${daemons[@]}" 2> /dev/null || true; rm -rf "$work"' EXIT
export NODE_ID=rack1-host3

# serve NAME COUNT [OTHER]: starts a subletd with a store that has COUNT leases, and sets $at to its address.
# With OTHER, subletd also gets a second store. The page shows the path of the store, so the store must have
# its usual path. Therefore a folder in memory is mounted over /var/lib, for this process only.
serve() {
    local log=$work/$1.log
    # shellcheck disable=SC2016 # the inner shell expands the variables
    unshare --user --map-root-user --mount sh -ec 'dir=/var/lib/cni/sublet
        mount -t tmpfs none /var/lib
        mkdir -p $dir
        "$1" $dir/leases.redb "$2"
        other=$dir/other/leases.redb
        [ -z "$3" ] || { mkdir $dir/other; "$1" $other "$3"; }
        exec bin/subletd --no-docker --http 127.0.0.1:0 --store $dir/leases.redb ${3:+--store $other}' \
        sh "$scene" "$2" "${3-}" 2> "$log" &
    daemons+=($!)
    until_true 180 "subletd over $2 leases" grep -q 'info: ready' "$log"
    at=$(sed -n 's|.*serving the status page at http://\([^/]*\)/.*|\1|p' "$log")
}

# drive SIZE [FOLDER]: runs the browser, and adds its findings to the table.
drive() {
    local name value
    node "$work/driver/page.mjs" "$1" "$at" ${2+"$2"} > "$work/seen" || fail "the page, over $1"
    while IFS=: read -r name value; do
        row "$1: $name" "${value# }"
    done < "$work/seen"
}

# memory: adds the peak memory of the last daemon to the table.
memory() {
    local peak
    peak=$(sed -n 's/^VmHWM:[[:space:]]*\([0-9]*\) kB$/\1/p' "/proc/${daemons[-1]}/status")
    row "$1: memory of subletd, peak" "$peak KiB"
    [ "$peak" -lt 65536 ] || fail "subletd needs $peak KiB over $1"
}

# took SIZE PATH: adds the duration and the size of a response to the table.
took() {
    local line
    line=$(curl -sS -o "$work/answer" -w '%{time_total} s, %{size_download} bytes' "http://$at$2")
    row "$1: $2" "$line"
}

serve none 0
took none /api/v1/status
drive none
serve hundred 100
took hundred /api/v1/status
drive hundred
serve many 65000
for path in /api/v1/status /metrics '/api/v1/leases?limit=10000' '/api/v1/leases?q=web&limit=10'; do
    took many "$path"
done
drive many
memory many
if [ -n "${SUBLET_LONG-}" ]; then
    serve million 1000000
    for path in /api/v1/status /metrics '/api/v1/leases?limit=10000' '/api/v1/leases?q=job-7&limit=10'; do
        took million "$path"
    done
    drive million
    memory million
fi

serve stores 0 100
drive stores

# The file is damaged only after the page has read it.
mkdir -p "$work/img"
serve damage 100
(until_true 60 "the page" grep -q ready "$work/seen" &&
    printf garbage > "/proc/${daemons[-1]}/root/var/lib/cni/sublet/leases.redb") &
drive damage "$work/img"

# Fill a store for the screenshot.
serve picture 24000
drive picture "$work/img"
for picture in "$work"/img/*.png; do
    row "picture: ${picture##*/}" "$(stat -c %s "$picture") bytes"
    [ -z "$pictures" ] || cp "$picture" "$pictures/"
done
table

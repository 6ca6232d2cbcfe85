#!/usr/bin/env bash
# The status page in a headless Chromium, over stores with no, 100 and 65,000 leases: tests/page/page.mjs
# points, types, zooms and taps, and asserts what it sees. With --pictures, it makes the README's
# screenshots in docs/img again. Chromium, nodejs and npm are Debian's and installed if missing (as root);
# playwright-core, which drives the browser, is npm's.
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
# Not in the repository, because npm's files are third-party.
cp -r tests/page "$work/driver"
(cd "$work/driver" && npm ci --no-audit --no-fund --loglevel=error)
daemons=()
trap '[ ${#daemons[@]} = 0 ] || kill "${daemons[@]}" 2> /dev/null || true; rm -rf "$work"' EXIT
export NODE_ID=rack1-host3

# serve NAME COUNT: a subletd over a store with this number of leases; its address is in $at. The store has
# its usual path, which the page shows: a folder in memory is mounted over /var/lib for this process only.
serve() {
    local log=$work/$1.log
    # shellcheck disable=SC2016 # they are the inner shell's
    unshare --user --map-root-user --mount sh -ec 'dir=/var/lib/cni/sublet
        mount -t tmpfs none /var/lib
        mkdir -p $dir
        "$1" $dir/leases.redb "$2"
        exec bin/subletd --http 127.0.0.1:0 --socket $dir/sublet.sock --store $dir/leases.redb' \
        sh "$scene" "$2" 2> "$log" &
    daemons+=($!)
    until_true 60 "subletd over $2 leases" grep -q 'info: ready' "$log"
    at=$(sed -n 's|.*the status page is at http://\([^/]*\)/.*|\1|p' "$log")
}

# drive SIZE [FOLDER]: runs the browser; its findings become rows of the table.
drive() {
    local name value
    node "$work/driver/page.mjs" "$1" "$at" ${2+"$2"} > "$work/seen" || fail "the page, over $1"
    while IFS=: read -r name value; do
        row "$1: $name" "${value# }"
    done < "$work/seen"
}

serve none 0
drive none
serve hundred 100
drive hundred
serve many 65000
curl -sS -o "$work/leases" -w '%{time_total} s, %{size_download} bytes\n' "http://$at/api/v1/leases" > "$work/cold"
curl -sS -o "$work/leases" -w '%{time_total} s\n' "http://$at/api/v1/leases" > "$work/warm"
row "many: /api/v1/leases, looked anew" "$(cat "$work/cold")"
row "many: /api/v1/leases, within a second" "$(cat "$work/warm")"
[ "$(jq '.leases | length' "$work/leases")" = 65000 ] || fail "not all leases are listed"
drive many
row "many: memory of subletd, peak" "$(sed -n 's/^VmHWM: *//p' "/proc/${daemons[-1]}/status")"

# A store for the picture.
serve picture 24000
mkdir -p "$work/img"
drive picture "$work/img"
for picture in "$work"/img/*.png; do
    row "picture: ${picture##*/}" "$(stat -c %s "$picture") bytes"
    [ -z "$pictures" ] || cp "$picture" "$pictures/"
done
table

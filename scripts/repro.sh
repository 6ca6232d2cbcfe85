#!/usr/bin/env bash
# Builds the last commit twice, from scratch and in two folders, and compares the binaries, the archive and
# the packages bit by bit. Takes two release builds' time.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Determined once, because there may be new commits while this runs.
commit=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct "$commit")
export SOURCE_DATE_EPOCH
arch=$(dpkg --print-architecture)
for copy in one another/deeper/two; do
    mkdir -p "$work/$copy"
    git archive "$commit" | tar -x -C "$work/$copy"
    (
        export CARGO_TARGET_DIR=$work/$copy/target
        cd "$work/$copy"
        scripts/build.sh
        packaging/pack.sh 0.0.1 "$arch" bin bin tgz deb rpm
    )
    (cd "$work/$copy/bin" && sha256sum sublet subletd ./*.tgz ./*.deb ./*.rpm) > "$work/$(basename "$copy").sums"
    rm -rf "$work/$copy/target"
done
cat "$work/one.sums"
if ! diff "$work/one.sums" "$work/two.sums"; then
    echo "repro.sh: two builds of one commit differ" >&2
    exit 1
fi
echo "repro.sh: the same, bit by bit"

#!/usr/bin/env bash
# Runs the named targets in fuzz/, or all of them, for SECONDS each. Needs a nightly compiler and cargo-fuzz.
# The inputs that a target finds are kept in target/fuzz/corpus. Usage: fuzz.sh SECONDS [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."

[[ ${1-} =~ ^[0-9]+$ ]] || {
    echo "usage: scripts/fuzz.sh SECONDS [TARGET...]" >&2
    exit 2
}
seconds=$1
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cd fuzz/targets && basename -s .rs -- *.rs)

export CARGO_TARGET_DIR=$PWD/target/fuzz
corpus=$CARGO_TARGET_DIR/corpus
options=(--fuzz-dir fuzz --sanitizer none --debug-assertions)
# There is no unsafe code, so an address sanitizer has nothing to find.
cargo +nightly fuzz build "${options[@]}"

# The initial inputs are the cases of testdata/.
for target in "${targets[@]}"; do
    mkdir -p "$corpus/$target"
done
case_files() {
    find "testdata/$1" -type f -name "$2" | sort
}
if [ -d "$corpus/plugin" ]; then
    while read -r file; do
        name=$(basename "$(dirname "$file")")
        {
            jq -r '[.steps[].env.CNI_ARGS? // empty][0] // ""' "$file"
            jq -c '.config + {cniVersion: "1.0.0"}' "$file"
        } > "$corpus/plugin/$name"
    done < <(case_files cni case.json)
fi
if [ -d "$corpus/docker" ]; then
    while read -r file; do
        grep -E '^[A-Z][A-Za-z]+ \{' "$file" > "$corpus/docker/$(basename "$(dirname "$file")")" || true
    done < <(case_files docker '*')
fi
[ ! -d "$corpus/bolt" ] || cp testdata/import/eni-ipam.db "$corpus/bolt/"
if [ -d "$corpus/command_line" ]; then
    printf 'list\n--sort\npod\n--limit\n1\n' > "$corpus/command_line/list"
    printf 'history\nnet\n--at\n2026-01-31\n' > "$corpus/command_line/history"
    printf 'map\nnet\n--prefix\n10.0.0.0/28\n' > "$corpus/command_line/map"
fi
if [ -d "$corpus/cluster" ]; then
    printf 'etcd\n{"header":{"revision":"5"},"succeeded":true,"responses":[{"response_range":{"kvs":[]}}]}\n' \
        > "$corpus/cluster/etcd"
    printf 'consul\n{"Results":[{"KV":{"Key":"sublet/x","Value":"","ModifyIndex":5}}],"Errors":null}\n[]\n' \
        > "$corpus/cluster/consul"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -d "$corpus/json_lines" ] || [ -d "$corpus/policy" ]; then
    env -u CARGO_TARGET_DIR scripts/build.sh > /dev/null
    export IPAM_DB_PATH=$work/leases.redb
    CNI_COMMAND=ADD CNI_CONTAINERID=c CNI_NETNS=/run/netns/c CNI_IFNAME=eth0 CNI_PATH=$PWD/bin \
        bin/sublet < testdata/demo/containerd.json > /dev/null
    bin/sublet reserve "$(jq -r .name testdata/demo/containerd.json)" 10.88.0.77 --note printer > /dev/null
    mkdir -p "$corpus/json_lines" "$corpus/policy"
    bin/sublet export jsonl "$work/export" > /dev/null
    cp "$work/export" "$corpus/json_lines/export"
    cp "$IPAM_DB_PATH.policy" "$corpus/policy/policy"
fi

failed=0
for target in "${targets[@]}"; do
    if cargo +nightly fuzz run "${options[@]}" "$target" "$corpus/$target" -- -max_total_time="$seconds" \
        -artifact_prefix="$CARGO_TARGET_DIR/" -max_len=4096 -timeout=25 -rss_limit_mb=4096 > "$work/log" 2>&1; then
        echo "fuzz: $target: $(grep -E 'DONE' "$work/log" | tail -n 1)"
    else
        failed=$((failed + 1))
        tail -n 40 "$work/log"
        echo "fuzz: $target failed"
    fi
done
echo "$((${#targets[@]} - failed)) passed, $failed failed"
[ "$failed" = 0 ]

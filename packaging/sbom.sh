#!/usr/bin/env bash
# Prints the bill of materials of the programs, in CycloneDX 1.5. It lists the crates in Cargo.lock that are
# compiled into the programs on Linux, and the crates that run during the build. It contains no random number
# and no path, so it is always the same for the same commit.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# != 1 ]; then
    echo "usage: packaging/sbom.sh VERSION" >&2
    exit 2
fi
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
# The registry's data about each crate: name, version, SHA-256.
sums=$(awk -F '"' '/^name = /{ name = $2 } /^version = /{ version = $2 }
    /^checksum = /{ printf "%s@%s %s\n", name, version, $2 }' Cargo.lock |
    jq --raw-input --null-input '[inputs | split(" ") | {key: .[0], value: .[1]}] | from_entries')
for platform in x86_64-unknown-linux-musl aarch64-unknown-linux-musl; do
    cargo metadata --locked --format-version 1 --filter-platform "$platform"
done | jq --slurp --sort-keys --arg version "$1" --argjson epoch "$epoch" --argjson sums "$sums" '
    # Returns the crates on which a crate depends, except those that only its tests need.
    def needed: [.deps[] | select(any(.dep_kinds[]; .kind != "dev")) | .pkg];
    def reached($nodes): {seen: {}, next: [.]}
        | until(.next == []; .next[0] as $id
            | if .seen[$id] then .next |= .[1:]
              else .seen[$id] = true | .next = .next[1:] + $nodes[$id] end)
        | .seen | keys;
    def purl: "pkg:cargo/\(.name)@\(.version)";
    .[0].resolve.root as $root
    | (map(.packages[]) | unique_by(.id) | map({key: .id, value: .}) | from_entries) as $packages
    | (reduce (.[].resolve.nodes[]) as $node ({}; .[$node.id] += ($node | needed))
        | map_values(unique)) as $nodes
    | ($root | reached($nodes)) as $all
    | ($packages[$root] | {type: "application", "bom-ref": purl, name, version: $version, purl: purl,
        description, licenses: [{expression: .license}]}) as $program
    | {
        bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
        metadata: {timestamp: ($epoch | todate), component: $program},
        components: [$all[] | select(. != $root) | $packages[.] | {
            type: "library", "bom-ref": purl, name, version, purl: purl,
            licenses: [{expression: (.license | gsub("/"; " OR "))}],
            hashes: [{alg: "SHA-256", content: $sums["\(.name)@\(.version)"]}]}] | sort_by(.purl),
        dependencies: [$all[] | . as $id | {ref: ($packages[$id] | purl),
            dependsOn: [$nodes[$id][] | $packages[.] | purl] | sort}] | sort_by(.ref)
    }'

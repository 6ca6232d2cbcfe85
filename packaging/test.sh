#!/usr/bin/env bash
# Runs the tests of whole programs, and the tests with real containers, with the binaries of a release (built
# for musl, if possible). The binaries are left in bin/. Needs root, and the same programs as scripts/test.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

packaging/compile.sh "$(dpkg --print-architecture)" bin
# The tests also run the example plugin `delegate`.
cargo build --locked --example delegate
# The tests run these binaries instead of those that cargo builds.
export SUBLET_PROGRAM=$PWD/bin/sublet SUBLETD_PROGRAM=$PWD/bin/subletd
if cargo nextest --version > /dev/null 2>&1; then
    cargo nextest run --locked --no-fail-fast --test it
else
    cargo test --locked --no-fail-fast --test it
fi
for name in plugins containerd podman install; do
    "scripts/e2e-$name.sh"
done

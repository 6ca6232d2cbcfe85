#!/usr/bin/env bash
# Builds the static release binaries of one architecture. Usage: compile.sh ARCH OUT
#
# The binaries are built for musl, with which a program starts faster. This requires that the toolchain has
# the target (rustup target add), or that its standard library can be built from source
# (packaging/sysroot.sh). Otherwise the binaries are built for glibc.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "compile.sh: $*" >&2
    exit 1
}

if [ $# != 2 ]; then
    fail "usage: packaging/compile.sh amd64|arm64 OUT"
fi
arch=$1
out=$2
case $arch in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) fail "ARCH is $arch, neither amd64 nor arm64" ;;
esac
cc=$machine-linux-gnu-gcc
command -v "$cc" > /dev/null || fail "$cc is missing: install gcc-${machine/_/-}-linux-gnu"
# `sublet version` prints this commit.
SUBLET_COMMIT=$(git rev-parse --short=12 HEAD 2> /dev/null || echo unknown)
export SUBLET_COMMIT

flags=(-C target-feature=+crt-static -C "linker=$cc")
options=(--release --locked)
target=$machine-unknown-linux-musl
libraries=$(rustc --print sysroot)/lib/rustlib
if [ -d "$libraries/$target/lib/self-contained" ]; then
    kind="musl, the toolchain's"
elif sysroot=$(packaging/sysroot.sh "$arch"); then
    kind="musl, built from source"
    # The installed compiler is a stable release, but building its standard library requires an unstable
    # option.
    export RUSTC=$sysroot/bin/rustc RUSTC_BOOTSTRAP=1
    options+=(-Z "build-std=std,panic_unwind")
    flags+=(--remap-path-prefix "$(readlink -f "$sysroot/lib/rustlib/src/rust")=/rust")
else
    target=$machine-unknown-linux-gnu
    kind=glibc
    [ -d "$libraries/$target" ] || fail "the toolchain has no target for $arch: run \`rustup target add" \
        "$machine-unknown-linux-musl\`"
    echo "compile.sh: the binaries are for glibc; for musl run: rustup target add $machine-unknown-linux-musl" >&2
fi
options+=(--target "$target")
under=${target//-/_}
# These features of the C compiler use functions that musl does not have.
export "CC_$under=$cc" "CFLAGS_$under=-U_FORTIFY_SOURCE -fno-stack-protector"
export RUSTFLAGS="${flags[*]}"
cargo build "${options[@]}" --bin subletd
# A runtime starts sublet for each container. A program at a fixed address needs no relocation: a start
# touches 25 pages less and takes 7 % less time. The daemon listens on the network, so it is loaded at a
# random address.
cargo rustc "${options[@]}" --bin sublet -- -C relocation-model=static

mkdir -p "$out"
for name in sublet subletd; do
    cp "${CARGO_TARGET_DIR:-target}/$target/release/$name" "$out/$name"
    # readelf is part of binutils, which the C compiler needs too.
    if readelf --program-headers "$out/$name" | grep -q INTERP; then
        fail "$out/$name is not static: it names an interpreter"
    fi
    echo "$out/$name: $arch, $kind, static, $(stat -c %s "$out/$name") bytes"
done

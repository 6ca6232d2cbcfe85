#!/usr/bin/env bash
# Builds the static release binaries and puts them into bin/. Needs a Rust toolchain of the version in
# Cargo.toml (rust-version) or later, and a C compiler with the static C library.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
get="Rust $wanted or later is needed; distributions often have an older one: install it from https://rustup.rs"
command -v cargo > /dev/null || fail "cargo is missing. $get"
found=$(rustc --version | cut -d ' ' -f 2)
printf '%s\n' "$wanted" "$found" | sort --check=quiet --version-sort || fail "this is Rust $found. $get"
echo 'int main(void) { return 0; }' | cc -static -x c -o /dev/null - ||
    fail "cc cannot link a static program: install a C compiler and the static C library" \
        "(Debian: apt-get install gcc libc6-dev; Fedora: dnf install gcc glibc-static)"

host=$(rustc -vV | sed -n 's/^host: //p')
# `sublet version` prints this commit.
SUBLET_COMMIT=$(git rev-parse --short=12 HEAD 2> /dev/null || echo unknown)
export SUBLET_COMMIT
# Name the target, because +crt-static would otherwise apply to build scripts and macros too.
RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --release --locked --target "$host" --bin sublet --bin subletd

mkdir -p bin
for name in sublet subletd; do
    # Rename the new file, because the old binary may be running.
    cp "${CARGO_TARGET_DIR:-target}/$host/release/$name" "bin/.$name.new"
    mv "bin/.$name.new" "bin/$name"
    # The program is part of binutils, which the C compiler needs too.
    if readelf --program-headers "bin/$name" | grep -q INTERP; then
        fail "bin/$name is not static: it names an interpreter"
    fi
    echo "$PWD/bin/$name: static, $(stat -c %s "bin/$name") bytes"
done

#!/usr/bin/env bash
# Builds the static release binaries and leaves them in bin/. Needs a Rust toolchain and a C linker.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
# +crt-static needs the target to be named: without it build scripts and macros get the flag too.
RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --release --locked --target "$host" --bin sublet --bin subletd

mkdir -p bin
for name in sublet subletd; do
    built=${CARGO_TARGET_DIR:-target}/$host/release/$name
    # A rename, so that a binary that is being run can be replaced.
    cp "$built" "bin/.$name.new"
    mv "bin/.$name.new" "bin/$name"

    if command -v readelf > /dev/null; then
        if readelf --program-headers "bin/$name" | grep -q INTERP; then
            echo "bin/$name is not static: it names an interpreter" >&2
            exit 1
        fi
    elif command -v file > /dev/null; then
        if ! file "bin/$name" | grep -q -E 'static(-pie|ally) linked'; then
            echo "bin/$name is not static: $(file "bin/$name")" >&2
            exit 1
        fi
    fi
    echo "$PWD/bin/$name: static, $(stat -c %s "bin/$name") bytes"
done

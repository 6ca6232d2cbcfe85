#!/usr/bin/env bash
# Builds the static release binary and leaves it in bin/. Needs a Rust toolchain and a C linker.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
# +crt-static needs the target to be named: without it build scripts and macros get the flag too.
RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --release --locked --target "$host" --bin sublet

mkdir -p bin
built=${CARGO_TARGET_DIR:-target}/$host/release/sublet
# A rename, so that a binary that is being run can be replaced.
cp "$built" bin/.sublet.new
mv bin/.sublet.new bin/sublet

if command -v readelf > /dev/null; then
    if readelf --program-headers bin/sublet | grep -q INTERP; then
        echo "bin/sublet is not static: it names an interpreter" >&2
        exit 1
    fi
elif command -v file > /dev/null; then
    if ! file bin/sublet | grep -q -E 'static(-pie|ally) linked'; then
        echo "bin/sublet is not static: $(file bin/sublet)" >&2
        exit 1
    fi
fi
echo "$PWD/bin/sublet: static, $(stat -c %s bin/sublet) bytes"

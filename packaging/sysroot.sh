#!/usr/bin/env bash
# Makes a private toolchain and prints its folder. It has the installed compiler, the sources of its standard
# library, and everything else that Rust's musl target needs. The installed toolchain stays unchanged.
# Usage: sysroot.sh ARCH
#
# The script uses Debian's packages: rust-src with exactly the version of the installed compiler, musl, and
# LLVM's unwinder. If one of them is not available, the script fails. The folder is in the user's cache and
# not in this repository, because its path becomes part of the symbol names, and therefore of the binaries.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "sysroot.sh: $*" >&2
    exit 1
}

arch=${1-}
case $arch in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) fail "usage: packaging/sysroot.sh amd64|arm64" ;;
esac
version=$(rustc --version | cut -d ' ' -f 2)
installed=$(rustc --print sysroot)
target=$machine-unknown-linux-musl
cc=$machine-linux-gnu-gcc
command -v "$cc" > /dev/null || fail "$cc is missing: install gcc-${machine/_/-}-linux-gnu"
sysroot=${XDG_CACHE_HOME:-$HOME/.cache}/sublet/rust-$version-$arch
if [ -e "$sysroot/complete" ]; then
    echo "$sysroot"
    exit
fi

export CARGO_TARGET_DIR=${sysroot%/*}
musl=$(scripts/e2e/unpack.sh bookworm "musl-dev:$arch" "usr/lib/$machine-linux-musl")
unwind=$(scripts/e2e/unpack.sh bookworm "libunwind-14-dev:$arch" usr/lib/llvm-14/lib/libunwind.a)
source=$(scripts/e2e/unpack.sh trixie-backports "rust-src=$version*" "usr/src/rustc-$version")

rm -rf "$sysroot"
mkdir -p "$sysroot/bin" "$sysroot/lib/rustlib/src" "$sysroot/lib/rustlib/$target/lib/self-contained"
ln -s "$installed"/lib/*.so "$sysroot/lib"
ln -s "$installed/lib/rustlib/"*-gnu "$sysroot/lib/rustlib"
ln -s "$source" "$sysroot/lib/rustlib/src/rust"
own=$sysroot/lib/rustlib/$target/lib/self-contained
cp "$musl"/*.o "$musl/libc.a" "$own"
cp "$unwind" "$own"
# Debian builds the unwinder for glibc. The unwinder calls one function that musl does not have.
"$cc" -Os -x c -c -o "$own/fprintf_chk.o" - << 'END'
#include <stdarg.h>
struct file;
int vfprintf(struct file *, const char *, va_list);
int __fprintf_chk(struct file *to, int flag, const char *format, ...) {
    va_list values;
    va_start(values, format);
    int written = vfprintf(to, format, values);
    va_end(values);
    (void) flag;
    return written;
}
END
ar r "$own/libunwind.a" "$own/fprintf_chk.o"
rm "$own/fprintf_chk.o"
for object in crtbegin crtbeginS crtend crtendS; do
    cp "$("$cc" -print-file-name=$object.o)" "$own"
done
printf '#!/bin/sh\nexec "%s/bin/rustc" --sysroot "%s" "$@"\n' "$installed" "$sysroot" > "$sysroot/bin/rustc"
chmod +x "$sysroot/bin/rustc"
touch "$sysroot/complete"
echo "$sysroot"

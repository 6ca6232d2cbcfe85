#!/usr/bin/env bash
# Makes all files of a release in dist/: archives, packages, the container image, their checksums, and the
# bill of materials. Two clones of the same commit produce identical files. Usage: release.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "release.sh: $*" >&2
    exit 1
}

version=${1-}
[ $# = 1 ] || fail "usage: packaging/release.sh VERSION"
found=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
[ "$version" = "$found" ] || fail "Cargo.toml has version $found"
grep -q "^## \[$version\] - [0-9-]*$" CHANGELOG.md || fail "CHANGELOG.md has no section [$version] with a date"
[ -z "$(git status --porcelain)" ] || fail "the tree has changes that are not committed"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

rm -rf dist
mkdir -p dist
# The bare binaries are not part of the release.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for arch in amd64 arm64; do
    packaging/compile.sh "$arch" "$work/$arch"
    packaging/smoke.sh "$arch" "$work/$arch"
    packaging/pack.sh "$version" "$arch" "$work/$arch" dist tgz deb rpm
done
packaging/image.sh "$version" "dist/sublet-v$version.oci.tar" "amd64=$work/amd64" "arm64=$work/arm64"
packaging/sbom.sh "$version" > "dist/sublet-v$version.cdx.json"
cd dist
for file in *; do
    sha256sum "$file" > "$file.sha256"
    sha512sum "$file" > "$file.sha512"
done
ls -l

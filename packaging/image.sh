#!/usr/bin/env bash
# Makes the container image from existing binaries. The image is built FROM scratch and has one index for all
# architectures; the result is an OCI archive. The same binaries and the same commit produce identical files:
# all times in the image are SOURCE_DATE_EPOCH (default: the time of the last commit). Needs buildah and jq.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat << 'END'
usage: packaging/image.sh VERSION OUT ARCH=BIN...

  OUT    the file, such as dist/sublet-v1.2.3.oci.tar
  ARCH   amd64 or arm64
  BIN    the folder with the static binaries sublet and subletd of that architecture
END
}

fail() {
    echo "image.sh: $*" >&2
    exit 1
}

if [ $# -lt 3 ]; then
    usage >&2
    exit 2
fi
version=$1
out=$2
shift 2
for tool in buildah jq tar; do
    command -v "$tool" > /dev/null || fail "$tool is missing: install the package $tool"
done
commit=$(git rev-parse HEAD)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Use a separate store for images. It needs no configuration and no privileged file system.
export CONTAINERS_STORAGE_CONF=$work/storage.conf TMPDIR=$work
printf '[storage]\ndriver = "vfs"\nrunroot = "%s/run"\ngraphroot = "%s/graph"\n' "$work" "$work" \
    > "$CONTAINERS_STORAGE_CONF"

packaging/sbom.sh "$version" > "$work/sublet.cdx.json"
name=localhost/sublet:$version
buildah manifest create "$name" > /dev/null
for pair in "$@"; do
    arch=${pair%%=*}
    bin=${pair#*=}
    case $arch in
        amd64) machine=3e ;;
        arm64) machine=b7 ;;
        *) fail "ARCH is $arch, neither amd64 nor arm64" ;;
    esac
    for program in sublet subletd; do
        # Read e_machine from the ELF header (elf(5)). It is at byte 18.
        found=$(od --address-radix=n --format=x1 --skip-bytes=18 --read-bytes=1 "$bin/$program" | tr -d ' ')
        [ "$found" = "$machine" ] || fail "$bin/$program is not for $arch"
        if readelf --program-headers "$bin/$program" | grep -q INTERP; then
            fail "$bin/$program is not static: it names an interpreter"
        fi
    done
    root=$work/$arch
    install -D -m 0755 "$bin/sublet" "$root/usr/bin/sublet"
    install -D -m 0755 "$bin/subletd" "$root/usr/bin/subletd"
    install -D -m 0644 LICENSE "$root/usr/share/licenses/sublet/LICENSE"
    install -D -m 0644 "$work/sublet.cdx.json" "$root/usr/share/sbom/sublet.cdx.json"
    container=$(buildah from --platform "linux/$arch" scratch)
    buildah add --quiet "$container" "$root" / > /dev/null
    labels=(
        "org.opencontainers.image.title=sublet"
        "org.opencontainers.image.description=Leases IP addresses to containers: a CNI IPAM plugin"
        "org.opencontainers.image.version=$version"
        "org.opencontainers.image.revision=$commit"
        "org.opencontainers.image.created=$(date --utc --date="@$epoch" +%Y-%m-%dT%H:%M:%SZ)"
        "org.opencontainers.image.licenses=Apache-2.0"
    )
    buildah config --os linux --arch "$arch" --env PATH=/usr/bin --cmd '["sublet", "version"]' \
        "${labels[@]/#/--label=}" "$container"
    buildah commit --quiet --rm --format oci --timestamp "$epoch" --identity-label=false \
        --manifest "$name" "$container" > /dev/null
done
buildah manifest push --quiet --all --format oci "$name" "oci:$work/image:$version" > /dev/null
# The archive contains the name that `ctr image import` and `podman load` give to the image.
jq --compact-output --arg name "docker.io/library/sublet:$version" --arg version "$version" '
    .manifests[].annotations = {"io.containerd.image.name": $name, "org.opencontainers.image.ref.name": $version}
    ' "$work/image/index.json" > "$work/index.json"
mv "$work/index.json" "$work/image/index.json"
mkdir -p "$(dirname "$out")"
tar --directory "$work/image" --create --file "$out" --sort=name --format=ustar --owner=root:0 --group=root:0 \
    --numeric-owner --mode=u=rwX,go=rX --mtime="@$epoch" .
digest=$(jq --raw-output '.manifests[0].digest' "$work/image/index.json")
echo "$out: $(stat -c %s "$out") bytes, sublet:$version, $digest"

#!/usr/bin/env bash
# Packs existing binaries into an archive or a package. The same binaries and the same commit produce
# identical files: the time of every file in the result is SOURCE_DATE_EPOCH (default: the time of the last
# commit).
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat << 'END'
usage: packaging/pack.sh VERSION ARCH BIN OUT KIND...

  ARCH   amd64 or arm64, the architecture of the binaries
  BIN    the folder with sublet and subletd
  OUT    the folder for the files
  KIND   tgz: sublet-linux-ARCH-vVERSION.tgz, all files beside each other, as CNI plugins are distributed
         deb: sublet_VERSION_ARCH.deb
         rpm: sublet-VERSION-1.x86_64.rpm or .aarch64.rpm
END
}

fail() {
    echo "pack.sh: $*" >&2
    exit 1
}

if [ $# -lt 5 ]; then
    usage >&2
    exit 2
fi
version=$1
arch=$2
bin=$(realpath "$3")
mkdir -p "$4"
out=$(realpath "$4")
shift 4
case $arch in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) fail "ARCH is $arch, neither amd64 nor arm64" ;;
esac
if [ -z "${SOURCE_DATE_EPOCH-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
fi
export SOURCE_DATE_EPOCH
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
manual=$work/manual
cargo run --quiet --locked --example manual -- "$manual"

need() {
    command -v "$1" > /dev/null || fail "$1 is missing: install the package $2"
}

# Sets the time of every file in a folder.
settle() {
    find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# stage ROOT PLUGINS: writes the files of a package to the folder ROOT. PLUGINS is the distribution's own
# folder for CNI plugins, relative to ROOT.
stage() {
    local root=$1 own=$2 page program unit rules doc=$1/usr/share/doc/sublet
    install -D -m 0755 "$bin/sublet" "$root/opt/cni/bin/sublet"
    install -D -m 0755 "$bin/subletd" "$root/usr/bin/subletd"
    # All names lead to one file, so they always have the same version.
    mkdir -p "$root/$own"
    ln -sr "$root/opt/cni/bin/sublet" "$root/usr/bin/sublet"
    ln -sr "$root/opt/cni/bin/sublet" "$root/$own/sublet"
    for page in "$manual"/man1/*.1; do
        install -D -m 0644 "$page" "$root/usr/share/man/man1/${page##*/}"
        gzip -9n "$root/usr/share/man/man1/${page##*/}"
    done
    for program in sublet subletd; do
        install -D -m 0644 "$manual/bash/$program.bash" \
            "$root/usr/share/bash-completion/completions/$program"
        install -D -m 0644 "$manual/zsh/_$program" "$root/usr/share/zsh/vendor-completions/_$program"
        install -D -m 0644 "$manual/fish/$program.fish" \
            "$root/usr/share/fish/vendor_completions.d/$program.fish"
    done
    for unit in packaging/systemd/*; do
        install -D -m 0644 "$unit" "$root/usr/lib/systemd/system/${unit##*/}"
    done
    install -D -m 0644 packaging/tmpfiles.d/sublet.conf "$root/usr/lib/tmpfiles.d/sublet.conf"
    install -D -m 0644 README.md "$doc/README.md"
    for page in docs/*.md docs/*.json docs/*.svg docs/img/*; do
        install -D -m 0644 "$page" "$doc/$page"
    done
    for rules in packaging/prometheus/*; do
        install -D -m 0644 "$rules" "$doc/examples/prometheus/${rules##*/}"
    done
    install -D -m 0644 CHANGELOG.md "$doc/changelog"
    gzip -9n "$doc/changelog"
}

tgz() {
    local files=$work/tgz name=sublet-linux-$arch-v$version.tgz
    mkdir "$files"
    install -m 0755 "$bin/sublet" "$bin/subletd" "$files"
    install -m 0644 LICENSE "$manual"/man1/*.1 "$manual"/*/*.bash "$manual"/zsh/_* "$manual"/fish/* "$files"
    tar --directory "$files" --create --file - --sort=name --format=ustar --owner=root:0 --group=root:0 \
        --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" . | gzip -9n > "$out/$name"
    echo "$out/$name: $(stat -c %s "$out/$name") bytes"
}

deb() {
    local root=$work/deb name=sublet_${version}_$arch.deb script
    need dpkg-deb dpkg
    stage "$root" usr/lib/cni
    install -D -m 0644 LICENSE "$root/usr/share/doc/sublet/copyright"
    mkdir "$root/DEBIAN"
    for script in postinst prerm postrm; do
        install -m 0755 "packaging/deb/$script" "$root/DEBIAN/$script"
    done
    cat > "$root/DEBIAN/control" << CONTROL
Package: sublet
Version: $version
Architecture: $arch
Section: net
Priority: optional
Maintainer: The sublet authors <sublet@localhost>
Installed-Size: $(du -k -s --apparent-size "$root/opt" "$root/usr" | awk '{ sum += $1 } END { print sum }')
Recommends: containernetworking-plugins
Description: leases IP addresses to containers
 A CNI IPAM plugin over one durable lease file, or etcd or Consul, and the
 operator's command for it. It accepts the configurations of host-local and
 ecs-ipam unchanged and takes over their leases.
CONTROL
    settle "$root"
    # Use one thread: otherwise the compressed data would depend on the number of processors.
    dpkg-deb --root-owner-group --threads-max=1 --build "$root" "$out/$name" > /dev/null
    echo "$out/$name: $(stat -c %s "$out/$name") bytes"
}

rpm() {
    local root=$work/rpm name=sublet-$version-1.$machine.rpm
    need rpmbuild rpm
    stage "$root" usr/libexec/cni
    install -D -m 0644 LICENSE "$root/usr/share/licenses/sublet/LICENSE"
    # Fedora's folder for zsh completions has a different name.
    mv "$root/usr/share/zsh/vendor-completions" "$root/usr/share/zsh/site-functions"
    settle "$root"
    (
        cd "$root"
        find . -type l -printf '/%P\n' -o -type f -printf '/%P\n'
        # List the folders that no other package owns.
        find opt/cni usr/libexec/cni usr/share/{doc/sublet,licenses,fish,zsh} -type d -printf '%%dir /%p\n'
    ) | sort > "$work/files"
    # Record only the names of files, and no names of this machine or its folders.
    rpmbuild -bb --quiet --target "$machine-linux" \
        --define "_topdir $work/rpmbuild" --define "_rpmdir $work" \
        --define "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
        --define "sublet_version $version" --define "sublet_root $root" --define "sublet_files $work/files" \
        packaging/rpm/sublet.spec
    mv "$work/$name" "$out/$name"
    echo "$out/$name: $(stat -c %s "$out/$name") bytes"
}

for kind in "$@"; do
    case $kind in
        tgz | deb | rpm) "$kind" ;;
        *) fail "KIND is $kind, none of tgz, deb and rpm" ;;
    esac
done

#!/usr/bin/env bash
# Builds a Debian package into bin/. sublet goes where Debian has its CNI plugins, /usr/lib/cni, and
# /usr/bin/sublet is a link there: one file, one version, in both roles. A runtime that looks for plugins
# in /opt/cni/bin gets a link there from its operator; a package has no business in /opt.
#
# The same source gives the same package: SOURCE_DATE_EPOCH, by default the last commit's time, is the
# time of everything in it. DEB_VERSION overrides the version.
set -euo pipefail
cd "$(dirname "$0")/../.."

for tool in dpkg-deb gzip; do
    command -v "$tool" > /dev/null || { echo "build.sh: $tool is missing" >&2; exit 1; }
done
scripts/build.sh
if [ -z "${SOURCE_DATE_EPOCH-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
fi
export SOURCE_DATE_EPOCH
version=${DEB_VERSION:-$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)}
arch=$(dpkg --print-architecture)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo run --quiet --locked --example manual -- "$work/manual"

root=$work/root
umask 022
install -D -m 0755 bin/sublet "$root/usr/lib/cni/sublet"
mkdir -p "$root/usr/bin"
ln -s ../lib/cni/sublet "$root/usr/bin/sublet"
install -m 0755 bin/subletd "$root/usr/bin/subletd"
for page in "$work"/manual/man1/*.1; do
    install -D -m 0644 "$page" "$root/usr/share/man/man1/${page##*/}"
    gzip -9n "$root/usr/share/man/man1/${page##*/}"
done
install -D -m 0644 "$work/manual/bash/sublet.bash" "$root/usr/share/bash-completion/completions/sublet"
install -D -m 0644 "$work/manual/zsh/_sublet" "$root/usr/share/zsh/vendor-completions/_sublet"
install -D -m 0644 "$work/manual/fish/sublet.fish" \
    "$root/usr/share/fish/vendor_completions.d/sublet.fish"
for unit in packaging/systemd/*; do
    install -D -m 0644 "$unit" "$root/usr/lib/systemd/system/${unit##*/}"
done
install -D -m 0644 packaging/tmpfiles.d/sublet.conf "$root/usr/lib/tmpfiles.d/sublet.conf"
doc=$root/usr/share/doc/sublet
install -D -m 0644 LICENSE "$doc/copyright"
install -D -m 0644 README.md "$doc/README.md"
for page in docs/*.md docs/*.json docs/*.svg docs/img/*; do
    install -D -m 0644 "$page" "$doc/$page"
done
for rules in packaging/prometheus/*; do
    install -D -m 0644 "$rules" "$doc/examples/prometheus/${rules##*/}"
done
install -D -m 0644 CHANGELOG.md "$doc/changelog"
gzip -9n "$doc/changelog"

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
Installed-Size: $(du -k -s --apparent-size "$root/usr" | cut -f 1)
Recommends: containernetworking-plugins
Description: leases IP addresses to containers
 A CNI IPAM plugin over one durable lease file, or etcd or Consul, and the
 operator's command for it. It reads the configurations of host-local and ecs-ipam as they are and
 takes over their leases.
CONTROL
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
mkdir -p bin
package=bin/sublet_${version}_$arch.deb
# One thread: how xz cuts its blocks must not depend on the machine.
dpkg-deb --root-owner-group --threads-max=1 --build "$root" "$package" > /dev/null
echo "$PWD/$package: $(stat -c %s "$package") bytes"

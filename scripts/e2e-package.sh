#!/usr/bin/env bash
# Tests the Debian package on this machine: it is installed, used for an ADD, upgraded over the leases of the
# old package, and removed. The machine itself stays unchanged, because everything happens in an overlay over
# its root file system, in a mount namespace that ends with the script. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "e2e-package: $*" >&2
    exit 1
}

arch=$(dpkg --print-architecture)
current=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
case ${1-} in
'')
    [ "$(id -u)" = 0 ] || fail "run this as root"
    for tool in unshare dpkg jq man; do
        command -v "$tool" > /dev/null || fail "$tool is missing"
    done
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    scripts/build.sh
    packaging/pack.sh 0.0.1 "$arch" bin bin deb
    packaging/pack.sh "$current" "$arch" bin bin deb
    unshare --mount --propagation private "$PWD/scripts/e2e-package.sh" overlay "$work"
    exit
    ;;
overlay)
    work=$2
    mount -t tmpfs none "$work"
    mkdir "$work/upper" "$work/work" "$work/root"
    mount -t overlay overlay \
        -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
    mount -t proc proc "$work/root/proc"
    mount --rbind /dev "$work/root/dev"
    mkdir "$work/root/repo"
    mount --bind "$PWD" "$work/root/repo"
    mount -t tmpfs none "$work/root/run"
    exec chroot "$work/root" /repo/scripts/e2e-package.sh inside
    ;;
inside) ;;
*) fail "no argument is taken" ;;
esac

export DEBIAN_FRONTEND=noninteractive
old=bin/sublet_0.0.1_$arch.deb
new=bin/sublet_${current}_$arch.deb
rm -rf /var/lib/cni/sublet /var/lib/cni/networks /etc/cni/net.d

cni() {
    CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2 CNI_IFNAME=eth0 \
        CNI_PATH=/opt/cni/bin "${plugin-/opt/cni/bin/sublet}"
}
conf() {
    jq -n --arg persist "$1" --arg type "${2-sublet}" '{cniVersion: "1.0.0", name: "mynet", type: "bridge",
        ipam: {type: $type, subnet: "10.4.0.0/16", persist: $persist}}'
}
expect() {
    [ "$2" = "$3" ] || fail "$1: expected $3, found $2"
}

dpkg --install "$old" > /dev/null
expect "installed version" "$(dpkg-query -W -f '${Version}' sublet)" 0.0.1
for link in /usr/bin/sublet /usr/lib/cni/sublet; do
    expect "$link" "$(readlink -f "$link")" /opt/cni/bin/sublet
done
expect "mode of the folder" "$(stat -c %a /var/lib/cni/sublet)" 700
expect "first ADD" "$(conf boot | cni ADD c1 | jq -r '.ips[0].address')" 10.4.0.2/16
expect "listed" "$(sublet list --json | jq -r '.[0].containerID')" c1
# No server listens on this address, so the cluster is unavailable.
cluster='{"etcd": {"endpoints": ["http://127.0.0.1:1"]}}'
if refused=$(conf boot | jq --argjson store "$cluster" '.ipam.store = $store' | cni ADD c2); then
    fail "an ADD without a cluster: $refused"
fi
expect "an ADD without a cluster" "$(jq .code <<< "$refused")" 11
[[ $(jq -r .msg <<< "$refused") == *"etcd at"* ]] || fail "an ADD without a cluster: $refused"
if told=$(sublet list --store "$cluster" 2>&1); then fail "a list without a cluster: $told"; fi
[[ $told == *"etcd at"* ]] || fail "a list without a cluster: $told"
conf boot | cni DEL c1
expect "after the DEL" "$(sublet list --json | jq length)" 0
man --local-file /usr/share/man/man1/sublet-gc.1.gz | grep -q -e --netns || fail "no man page"
man --local-file /usr/share/man/man1/subletd.1.gz | grep -q -e --http || fail "no man page of subletd"
for program in sublet subletd; do
    bash -c "source /usr/share/bash-completion/completions/$program && complete -p $program" > /dev/null ||
        fail "no completion of $program"
done
for unit in packaging/systemd/*; do
    systemd-analyze verify --man=no "/usr/lib/systemd/system/${unit##*/}" || fail "$unit"
done

# The leases of the old package exist when the new package is installed.
rm -rf /var/lib/cni/sublet/*
expect "a lease" "$(conf disk | cni ADD a | jq -r '.ips[0].address')" 10.4.0.2/16
expect "another lease" "$(conf disk | cni ADD c | jq -r '.ips[0].address')" 10.4.0.3/16
dpkg --install "$new" > /dev/null
expect "upgraded version" "$(dpkg-query -W -f '${Version}' sublet)" "$current"
expect "leases of the old package" "$(sublet list --json | jq length)" 2
expect "a repeated ADD" "$(conf disk | cni ADD c | jq -r '.ips[0].address')" 10.4.0.3/16
expect "the next ADD" "$(conf disk | cni ADD new | jq -r '.ips[0].address')" 10.4.0.4/16
conf disk | cni DEL a
expect "after the upgrade" "$(sublet list --json | jq length)" 2
sublet gc --dry-run > /dev/null

# Removing the package restores host-local in both folders, with its leases.
for folder in /opt/cni/bin /usr/lib/cni; do
    cp /usr/lib/cni/host-local "$folder/.former"
    mv "$folder/.former" "$folder/host-local"
done
for folder in /opt/cni/bin /usr/lib/cni; do
    sublet install --to "$folder" --as host-local > /dev/null
done
expect "as host-local" "$(plugin=/usr/lib/cni/host-local; conf disk host-local | cni ADD c)" \
    "$(conf disk | cni ADD c)"

dpkg --purge sublet > /dev/null
for folder in /opt/cni/bin /usr/lib/cni; do
    [ ! -L "$folder/host-local" ] || fail "$folder/host-local was not given back"
    plugin=$folder/host-local
    conf disk host-local | jq 'del(.ipam.persist)' | cni ADD "of${folder//\//-}" > /dev/null
done
expect "leases of host-local" "$(cd /var/lib/cni/networks/mynet && echo 10.4.0.*)" \
    "10.4.0.3 10.4.0.4 10.4.0.5 10.4.0.6"
left=$(find /opt/cni/bin /usr/lib/cni -name '*sublet*' -o -name '*.old')
expect "left in the folders of plugins" "$left" ""
for gone in /usr/bin/sublet /usr/bin/subletd /usr/lib/systemd/system/sublet-gc.timer; do
    if [ -e "$gone" ] || [ -L "$gone" ]; then
        fail "$gone is left behind"
    fi
done
[ -e /var/lib/cni/sublet/leases.redb ] || fail "the leases are gone with the package"
echo "e2e-package: installed, upgraded over leases, removed with host-local in its place"

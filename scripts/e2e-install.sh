#!/usr/bin/env bash
# Tests the archive, the Debian package and the RPM, each on a bare root file system whose first process is
# systemd. Each is installed, used for a container, upgraded while the previous version's leases exist,
# downgraded to that version, and removed. The packages' units run during the whole test. At the end, only the
# leases may be left. The machine itself stays unchanged. Needs root; packs the binaries in bin/.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "e2e-install: $*" >&2
    exit 1
}

arch=$(dpkg --print-architecture)
# The previous version is the same program in a slightly different file. Other tests use stores that released
# versions wrote.
before=0.0.1
now=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
case ${1-} in
'')
    [ "$(id -u)" = 0 ] || fail "run this as root"
    for tool in mmdebstrap unshare findmnt rpmbuild jq; do
        command -v "$tool" > /dev/null || fail "$tool is missing"
    done
    [ -x bin/sublet ] || scripts/build.sh
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/before"
    for program in sublet subletd; do
        # Data after the end of an ELF file is never read, so the program still works.
        { cat "bin/$program"; echo; } > "$work/before/$program"
    done
    packaging/pack.sh "$before" "$arch" "$work/before" "$work/dist" tgz deb rpm
    packaging/pack.sh "$now" "$arch" bin "$work/dist" tgz deb rpm
    mmdebstrap --quiet --variant=minbase --include=jq,rpm,iproute2,containernetworking-plugins,systemd bookworm \
        "$work/base" "$(scripts/e2e/mirror.sh)"
    cgroup=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET)/sublet-e2e-$$
    mkdir "$cgroup"
    trap 'rm -rf "$work"; find "$cgroup" -depth -type d -exec rmdir {} +' EXIT
    for kind in tgz deb rpm; do
        status=0
        (
            echo "$BASHPID" > "$cgroup/cgroup.procs"
            exec unshare --mount --net --uts --ipc --cgroup --pid --fork --kill-child --propagation private \
                "$PWD/scripts/e2e-install.sh" root "$work" "$kind"
        ) || status=$?
        cat "$work/dist/log.$kind"
        [ $status = 0 ] || fail "$kind failed"
    done
    echo "e2e-install: archive, Debian package and RPM were installed, upgraded, rolled back and removed"
    exit
    ;;
root)
    work=$2
    kind=$3
    mkdir "$work/$kind"
    mount -t tmpfs none "$work/$kind"
    root=$work/$kind/root
    mkdir "$work/$kind/upper" "$work/$kind/work" "$root"
    mount -t overlay overlay -o "lowerdir=$work/base,upperdir=$work/$kind/upper,workdir=$work/$kind/work" "$root"
    mkdir "$root/repo" "$root/dist"
    mount --bind "$PWD" "$root/repo"
    mount --bind "$work/dist" "$root/dist"
    mount -t proc proc "$root/proc"
    # In a container, systemd does not mount these folders read-only, so do it here.
    mount --bind -o ro "$root/proc/sys" "$root/proc/sys"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 none "$root/sys/fs/cgroup"
    mount -t tmpfs none "$root/run"
    mount -t tmpfs -o mode=755 none "$root/dev"
    for device in null zero full random urandom tty; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    ln -s /proc/self/fd "$root/dev/fd"
    # systemd makes a private /dev for subletd from these devices.
    mkdir "$root/dev/pts"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    # When this service ends, systemd ends too.
    cat > "$root/etc/systemd/system/e2e-install.service" << END
[Unit]
SuccessAction=exit-force
FailureAction=exit-force
FailureActionExitStatus=1

[Service]
Type=oneshot
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
ExecStart=/repo/scripts/e2e-install.sh inside $kind
StandardOutput=file:/dist/log.$kind
StandardError=inherit
END
    cd "$root"
    pivot_root . mnt
    umount --lazy /mnt
    exec env -i container=e2e PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --unit=e2e-install.service
    ;;
inside) ;;
*) fail "no argument is taken" ;;
esac

kind=$2
machine=$(uname -m)

# Lists all files except the files of the package managers, of the tests and of the kernel.
files() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /repo -o -path /dist \
        -o -path /tmp -o -path /var/lib/dpkg -o -path /var/lib/rpm -o -path /root/.rpmdb -o -path /var/log \
        -o -path /var/cache \) -prune -o -print | sort
}

# put VERSION: installs the archive or package of this version.
put() {
    case $kind in
    tgz)
        mkdir /tmp/archive
        tar -xzf "/dist/sublet-linux-$arch-v$1.tgz" -C /tmp/archive
        [ "$(stat -c %u:%g /tmp/archive/sublet)" = 0:0 ] || fail "the archive is not root's"
        /tmp/archive/sublet install --to /opt/cni/bin --bin /usr/local/bin
        rm -r /tmp/archive
        ;;
    deb) dpkg --install "/dist/sublet_$1_$arch.deb" ;;
    # Debian's rpm does not know Debian's packages, so dependencies are not checked.
    rpm) rpm --upgrade --oldpackage --nodeps "/dist/sublet-$1-1.$machine.rpm" ;;
    esac > /dev/null
}

take_away() {
    case $kind in
    tgz) sublet uninstall --to /opt/cni/bin --bin /usr/local/bin ;;
    deb) dpkg --purge sublet ;;
    rpm) rpm --erase sublet ;;
    esac > /dev/null
}

# cni COMMAND CONTAINER: calls Debian's bridge plugin, which gets the address from sublet.
cni() {
    jq -n '{cniVersion: "1.0.0", name: "mynet", type: "bridge", bridge: "cni0", isGateway: true,
        ipam: {type: "sublet", subnet: "10.4.0.0/16", persist: "disk"}}' |
        CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2 CNI_IFNAME=eth0 \
            CNI_PATH=/opt/cni/bin:/usr/lib/cni /usr/lib/cni/bridge
}

# add CONTAINER ADDRESS: adds a container, and fails if it gets a different address.
add() {
    ip netns add "$1"
    cni ADD "$1" > /dev/null || fail "$kind: no address for $1"
    [[ $(ip netns exec "$1" ip -o addr show eth0) == *" $2/16 "* ]] || fail "$kind: $1 does not have $2"
}

is() {
    [ "$2" = "$3" ] || fail "$kind: $1: expected $3, found $2"
}

# The archive contains no units.
units=(subletd.socket subletd.service sublet-page.service sublet-gc.timer sublet-metrics.timer)
exporter=/var/lib/prometheus/node-exporter

units_on() {
    [ "$kind" != tgz ] || return 0
    is "units that nobody enabled" "$(systemctl list-unit-files --state=enabled --legend=no 'sublet*')" ""
    systemctl enable --quiet --now "${units[@]}" || fail "$kind: $(systemctl status "${units[@]}")"
    units_run
}

# Checks that all units run, and that subletd is the installed version.
units_run() {
    local process
    [ "$kind" != tgz ] || return 0
    systemctl --quiet is-active "${units[@]}" || fail "$kind: $(systemctl status "${units[@]}")"
    systemctl --quiet is-enabled "${units[@]}" || fail "$kind: not all units are enabled"
    process=$(systemctl show --property MainPID --value subletd.service)
    is "subletd" "$(sha256sum < "/proc/$process/exe")" "$(sha256sum < /usr/bin/subletd)"
    [ -S /run/docker/plugins/sublet.sock ] || fail "$kind: subletd's socket is gone"
}

# Checks that the services of the timers work although they are sandboxed.
jobs_work() {
    local grace=/run/systemd/system/sublet-gc.service.d
    [ "$kind" != tgz ] || return 0
    mkdir "$grace"
    printf '[Service]\nExecStart=\nExecStart=/usr/bin/sublet gc --netns --yes --quiet --grace 0\n' > "$grace/0.conf"
    systemctl daemon-reload
    ip netns add lost
    cni ADD lost > /dev/null
    ip netns delete lost
    systemctl start sublet-gc.service || fail "$kind: $(systemctl status sublet-gc.service)"
    is "leases after a lost DEL" "$(sublet list --json | jq -r '.[].containerID')" two
    mkdir -p "$exporter"
    systemctl start sublet-metrics.service || fail "$kind: $(systemctl status sublet-metrics.service)"
    grep -q ^sublet_ "$exporter/sublet.prom" || fail "$kind: no metrics"
    rm -r "${exporter%/*}"
}

mkdir /run/netns
files > /tmp/files
put "$before"
[ -x /opt/cni/bin/sublet ] || fail "$kind: no plugin in /opt/cni/bin"
sublet version > /dev/null
subletd --version > /dev/null
add one 10.4.0.2
is "leases" "$(sublet list --json | jq length)" 1
units_on

former=$(sha256sum < /opt/cni/bin/sublet)
put "$now"
[ "$(sha256sum < /opt/cni/bin/sublet)" != "$former" ] || fail "$kind: not upgraded"
is "leases of the version before" "$(sublet list --json | jq -r '.[0].address')" 10.4.0.2
units_run
add two 10.4.0.3
cni DEL one
jobs_work

case $kind in
tgz) /opt/cni/bin/sublet.old install --to /opt/cni/bin > /dev/null ;;
*) put "$before" ;;
esac
is "the version before" "$(sha256sum < /opt/cni/bin/sublet)" "$former"
is "leases after the way back" "$(sublet list --json | jq -r '.[].address')" 10.4.0.3
units_run
put "$now"
units_run
cni DEL two
if ip netns exec two ip link show eth0 > /dev/null 2>&1; then
    fail "$kind: the interface of two is left"
fi
sublet doctor > /dev/null

take_away
is "units that are left" "$(systemctl list-units --all --legend=no 'sublet*')" ""
is "files of units that are left" "$(systemctl list-unit-files --legend=no 'sublet*')" ""
files > /tmp/files.left
# These folders may also belong to other programs, so they may be left.
left=$(comm -13 /tmp/files /tmp/files.left | grep -v -x -e '/opt/cni\(/bin\)\?' -e /var/lib/cni \
    -e '/var/lib/cni/sublet\(/leases\..*\)\?' || true)
is "left behind" "$left" ""
[ -e /var/lib/cni/sublet/leases.redb ] || fail "$kind: the leases are gone"
echo "e2e-install: $kind: installed, upgraded, rolled back, removed"

#!/usr/bin/env bash
# Functions that the end-to-end scripts share: packages, an environment (network, mounts, processes, cgroups)
# that ends with the script, and the table of results. Sourced, not run. The working directory must be the
# root of the repository.
set -euo pipefail

# Report the command that fails, even if the command itself prints nothing.
set -E
trap 'echo "${script:-$0}: ${BASH_SOURCE[0]}:$LINENO failed: $BASH_COMMAND" >&2' ERR

script=$(basename "$0" .sh)
# The temporary folder of this run, and the prefix of its cgroups.
work=${2-}
cgroup=${cgroup-}

fail() {
    echo "$script: $*" >&2
    exit 1
}

install() {
    DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends -y "$@" < /dev/null
}

# need PROGRAM=PACKAGE ...: installs missing packages if the user is root. Otherwise fails with the command to
# run.
need() {
    local pair packages=()
    for pair in "$@"; do
        command -v "${pair%%=*}" > /dev/null || packages+=("${pair#*=}")
    done
    [ ${#packages[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        fail "missing: apt-get update && apt-get install --no-install-recommends -y ${packages[*]}"
    fi
    # The package lists may be missing or outdated.
    install "${packages[@]}" 2> /dev/null || { apt-get update && install "${packages[@]}"; }
    for pair in "$@"; do
        command -v "${pair%%=*}" > /dev/null || fail "${pair%%=*} is missing after the installation"
    done
}

# enter ARG ...: runs the script again in new namespaces, as `SCRIPT inside FOLDER ARG ...`, and exits with
# its status. When the inner script ends, all processes that it started end too, even those whose runtime was
# killed.
enter() {
    [ "$(id -u)" = 0 ] || fail "containers need root"
    work=$(mktemp -d)
    cgroup=sublet-e2e-$$
    # Run the inner script in the background, so that this shell handles signals at once.
    unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private \
        env -i PATH="$PATH" HOME="$work" cgroup="$cgroup" "$PWD/scripts/$script.sh" inside "$work" "$@" &
    inner=$!
    # unshare ignores signals while it waits for its child. Killing unshare ends all processes in the
    # namespaces.
    trap 'kill -KILL "$inner" 2> /dev/null || true; wait "$inner" 2> /dev/null || true; leave' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    local status=0
    wait "$inner" || status=$?
    # The inner script has passed only if it printed the table of results at its end.
    if [ $status = 0 ] && [ ! -e "$work/passed" ]; then
        echo "$script: ended early" >&2
        status=1
    fi
    exit "$status"
}

leave() {
    # A container leaves empty folders in each cgroup hierarchy. The last processes may still be ending.
    for _ in $(seq 50); do
        find /sys/fs/cgroup -depth -type d -path "*/$cgroup*" -exec rmdir {} + 2> /dev/null || true
        [ -n "$(find /sys/fs/cgroup -type d -name "$cgroup*" 2> /dev/null)" ] || break
        sleep 0.1
    done
    rm -rf "$work"
}

# Hides the machine's folders from this mount namespace: /run, /var/lib and /opt are empty, and /etc is a copy
# without CNI configurations. Then installs sublet.
own_folders() {
    mount -t tmpfs none /run
    cp -a /etc "$work/etc"
    mkdir "$work/lib" "$work/opt"
    mount --bind "$work/etc" /etc
    mount --bind "$work/lib" /var/lib
    mount --bind "$work/opt" /opt
    rm -rf /etc/cni/net.d
    mkdir -p /etc/cni/net.d
    ip link set lo up
    # Duplicate address detection would delay each IPv6 address.
    echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
    scripts/install.sh --bin "$work/bin" > /dev/null
}

# plugins NAME ...: installs Debian's plugins in the same folder as sublet.
plugins() {
    local plugin
    for plugin in "$@"; do
        cp "/usr/lib/cni/$plugin" "/opt/cni/bin/$plugin"
    done
}

# image FILE NAME: makes a container image with busybox, which sleeps by default.
image() {
    local build="$work/image" applet diff
    mkdir -p "$build/root/bin"
    cp "$(command -v busybox)" "$build/root/bin/busybox"
    for applet in sh sleep ping ip true; do
        ln -s busybox "$build/root/bin/$applet"
    done
    tar -C "$build/root" -cf "$build/layer.tar" .
    diff=$(sha256sum "$build/layer.tar")
    jq -n --arg diff "sha256:${diff%% *}" --arg arch "$(dpkg --print-architecture)" '{
        architecture: $arch, os: "linux",
        config: {Entrypoint: ["/bin/sleep"], Cmd: ["1000000"], Env: ["PATH=/bin"]},
        rootfs: {type: "layers", diff_ids: [$diff]}}' > "$build/config.json"
    jq -n --arg name "$2" '[{Config: "config.json", RepoTags: [$name], Layers: ["layer.tar"]}]' \
        > "$build/manifest.json"
    tar -C "$build" -cf "$1" manifest.json config.json layer.tar
}

leases() {
    /opt/cni/bin/sublet list --json
}

# Prints the addresses of a container, in the order of its address families.
addresses() {
    leases | jq -r --arg id "$1" '.[] | select(.containerID == $id) | .address'
}

no_leases() {
    [ "$(leases | jq length)" = 0 ] || fail "$1: leases are left: $(leases)"
}

no_links() {
    local left
    left=$(ip -o link show type veth)
    [ -z "$left" ] || fail "$1: links are left: $left"
}

# wait_for SECONDS COMMAND ...: repeats the command silently until it succeeds. Fails after this time.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.05
    done
}

# until_true SECONDS WHAT COMMAND ...: repeats the command until it succeeds.
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $end ] || fail "still not after a while: $what"
        sleep 0.05
    done
}

rows=()
began=$SECONDS
# row WHAT SEEN: adds a line to the table. The line is printed at once, and again with the whole table at the
# end.
row() {
    rows+=("$(printf '%4s s  %-52s %s' $((SECONDS - began)) "$1" "$2")")
    echo "${rows[-1]}"
}

table() {
    printf '\n%s:\n' "$script"
    printf '%s\n' "${rows[@]}"
    echo "$script: everything passed"
    touch "$work/passed"
}

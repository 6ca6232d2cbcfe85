#!/usr/bin/env bash
# Runs every check and every test. As root it installs the Debian packages that they need; as anybody
# else it says which are missing and fails. A missing peer is a failure, never a skip.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

# What is needed, and the package that has it.
needs=(
    cc=build-essential
    /usr/lib/cni/host-local=containernetworking-plugins
    ip=iproute2
    ping=iputils-ping
    unshare=util-linux
    mount=mount
    jq=jq
    shellcheck=shellcheck
    strace=strace
    containerd=containerd
    ctr=containerd
    dockerd=docker.io
    docker=docker.io
    nsenter=util-linux
    dpkg-deb=dpkg
    man=man-db
    systemd-analyze=systemd
    readelf=binutils
    etcd=etcd-server
    setpriv=util-linux
    busybox=busybox-static
    iptables=iptables
    curl=curl
    promtool=prometheus
    openssl=openssl
    tmux=tmux
)

missing() {
    local need program
    for need in "${needs[@]}"; do
        program=${need%%=*}
        command -v "$program" > /dev/null || echo "${need#*=}"
    done
}

mapfile -t packages < <(missing)
if [ ${#packages[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        echo "test.sh: run this as root first, or install the same another way:" >&2
        echo "    apt-get update && apt-get install --no-install-recommends -y ${packages[*]}" >&2
        exit 1
    fi
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends -y "${packages[@]}"
    mapfile -t packages < <(missing)
    if [ ${#packages[@]} -gt 0 ]; then
        echo "test.sh: still missing after the installation: ${packages[*]}" >&2
        exit 1
    fi
fi

step() {
    local begin=$SECONDS
    echo
    echo "== $*"
    "$@"
    echo "== done in $((SECONDS - begin)) s: $1 ${2-}"
}

step cargo fetch --locked
step scripts/get-consul.sh
step cargo fmt --all --check
step shellcheck -x scripts/*.sh scripts/e2e/*.sh packaging/deb/* testdata/readme/*.sh .ci/run
step cargo clippy --all-targets --locked -- -D warnings
RUSTDOCFLAGS='-D warnings' step cargo doc --no-deps --document-private-items --locked
# Without a choice of targets both build the example too: the plugin that the tests delegate through.
if cargo nextest --version > /dev/null 2>&1; then
    step cargo nextest run --locked --no-fail-fast
else
    step cargo test --locked --no-fail-fast
fi
step cargo test --doc --locked
if cargo deny --version > /dev/null 2>&1; then
    # The advisory database is fetched from the network: left to whoever has one.
    step cargo deny --offline check bans licenses sources
else
    echo "== cargo-deny is not installed: licences and duplicates were checked by the tests alone"
fi
step scripts/build.sh
if [ "$(id -u)" = 0 ]; then
    step scripts/e2e-plugins.sh
    step scripts/e2e-etcd.sh
    step scripts/e2e-consul.sh
    step scripts/e2e-containerd.sh
    step scripts/e2e-cri.sh
    step scripts/e2e-podman.sh
    step scripts/e2e-package.sh
    step scripts/e2e-docker.sh
    step scripts/e2e-docker-cluster.sh
    step scripts/e2e-page.sh
else
    echo "test.sh: real containers and clusters need root: scripts/e2e-*.sh" >&2
    exit 1
fi
echo
echo "test.sh: everything passed in $SECONDS s"

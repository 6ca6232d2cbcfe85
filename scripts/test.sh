#!/usr/bin/env bash
# Runs the tests of one tier; --help describes the three tiers. If a required program is missing, its tests
# fail; they are never skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

usage() {
    cat << 'END'
usage: scripts/test.sh [--fast | --long]

  --fast       formatting, clippy, and the tests that need only the built binaries: no root, no
               Debian packages, about three minutes after the build
  (no option)  everything that continuous integration runs: all tests, real containers, clusters.
               Run it as root; it installs the Debian packages that the tests need
  --long       the same, with longer tests: SUBLET_LONG=1 makes tests try more cases, the consistency
               runs take 150 s instead of 30 s, all patches of scripts/sabotage.sh are tried
               instead of five, and the release's programs are tested too (packaging/test.sh)

Tests that need more than the built binaries are in modules named `peers`. --fast skips them.
END
}

tier=${1-}
seconds=30
patches=--five
case $#$tier in
    0 | 1--fast) ;;
    1--long)
        export SUBLET_LONG=1
        seconds=150
        patches=--all
        ;;
    1-h | 1--help)
        usage
        exit
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac

# The required programs and their packages.
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
    mmdebstrap=mmdebstrap
    nsenter=util-linux
    dpkg-deb=dpkg
    rpmbuild=rpm
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
    buildah=buildah
    python3=python3-venv
    valgrind=valgrind
)
[ "$tier" != --fast ] || needs=(cc=build-essential)

missing() {
    local need program
    for need in "${needs[@]}"; do
        program=${need%%=*}
        command -v "$program" > /dev/null || echo "${need#*=}"
    done
}

if ! command -v cargo > /dev/null; then
    echo "test.sh: cargo is missing: install a Rust toolchain, see https://rustup.rs" >&2
    exit 1
fi
mapfile -t packages < <(missing)
if [ ${#packages[@]} -gt 0 ]; then
    if [ "$tier" = --fast ] || [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        echo "test.sh: some programs are missing. As root, run:" >&2
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
step cargo fmt --all --check
if [ "$tier" = --fast ]; then
    step cargo clippy --all-targets --locked -- -D warnings
    if cargo nextest --version > /dev/null 2>&1; then
        step cargo nextest run --locked --no-fail-fast --profile fast
    else
        step cargo test --locked --no-fail-fast -- --skip peers::
    fi
    echo
    echo "test.sh --fast: everything passed in $SECONDS s"
    exit
fi

step scripts/get-consul.sh
step shellcheck -x scripts/*.sh scripts/e2e/*.sh packaging/*.sh packaging/deb/* testdata/readme/*.sh .ci/run
step cargo clippy --all-targets --locked -- -D warnings
RUSTDOCFLAGS='-D warnings' step cargo doc --no-deps --document-private-items --locked
# If no targets are chosen, both commands also build the example `delegate`, which some tests run.
if cargo nextest --version > /dev/null 2>&1; then
    step cargo nextest run --locked --no-fail-fast
else
    step cargo test --locked --no-fail-fast
fi
step cargo test --doc --locked
step scripts/sabotage.sh "$patches"
if cargo deny --version > /dev/null 2>&1; then
    # The advisory database would have to be downloaded, so checking advisories is left to the user.
    step cargo deny --offline check bans licenses sources
else
    echo "== cargo-deny is not installed: licences and duplicates were checked by the tests alone"
fi
step scripts/build.sh
step scripts/counts.sh
if [ "$(id -u)" = 0 ]; then
    step scripts/e2e-plugins.sh
    step scripts/e2e-scenarios.sh
    step scripts/e2e-etcd.sh "$seconds"
    step scripts/e2e-etcd.sh "$seconds" "$(scripts/get-etcd.sh)"
    step scripts/e2e-consul.sh "$seconds"
    step scripts/e2e-containerd.sh
    step scripts/e2e-cri.sh
    step scripts/e2e-kubernetes.sh
    step scripts/e2e-podman.sh
    step scripts/e2e-package.sh
    step scripts/e2e-install.sh
    step scripts/e2e-docker.sh
    step scripts/e2e-docker.sh trixie
    # Debian's next release changes every day.
    [ "$tier" != --long ] || step scripts/e2e-docker.sh forky
    step scripts/e2e-docker-cluster.sh
    step scripts/e2e-docker-migration.sh
    [ "$tier" != --long ] || step scripts/e2e-docker-migration.sh trixie
    step scripts/e2e-page.sh
    [ "$tier" != --long ] || step packaging/test.sh
else
    echo "test.sh: real containers and clusters need root: scripts/e2e-*.sh" >&2
    exit 1
fi
echo
echo "test.sh $tier: everything passed in $SECONDS s"

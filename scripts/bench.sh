#!/usr/bin/env bash
# Measures sublet, Debian's host-local and a program that does nothing, and writes docs/bench.md and
# docs/bench.svg. sublet is built for glibc and, if possible, also for musl. This takes some minutes; --quick
# takes about two minutes and is less exact. The script never fails because of a slow result. With `docker` it
# measures subletd instead, and writes docs/bench-docker.md. With `cluster` (and --quick) it starts an etcd
# and a Consul, measures sublet with them, and writes docs/bench-cluster.md.
#
# Everything runs in a separate mount namespace and network namespace, which end with the script. The stores
# are in a temporary folder below BENCH_DIR (default /var/tmp). That folder must be on the disk that is to be
# measured, and not on a tmpfs. The bridge plugin is measured only as root.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "bench: $*" >&2
    exit 1
}

if [ "${1-}" = inside ]; then
    shift
    # The benchmark writes another boot ID to this file to start another boot.
    cp /proc/sys/kernel/random/boot_id "$BENCH_WORK/boot_id"
    mount --bind "$BENCH_WORK/boot_id" /proc/sys/kernel/random/boot_id
    export BENCH_BOOT_ID=$BENCH_WORK/boot_id
    if [ -n "${BENCH_NETNS-}" ]; then
        # `ip netns` stores names here. This tmpfs hides the names of the machine's own namespaces.
        mount -t tmpfs none /run
        ip link set lo up
    fi
    exec "$BENCH_DRIVER" run "$@"
fi

if [ "${1-}" = cluster-inside ]; then
    shift
    # This tmpfs hides the local cache of the machine's own clusters.
    mount -t tmpfs none /run
    [ -z "${BENCH_NETNS-}" ] || ip link set lo up
    etcd --data-dir "$BENCH_WORK/etcd" --listen-client-urls http://127.0.0.1:23790 \
        --advertise-client-urls http://127.0.0.1:23790 \
        --listen-peer-urls http://127.0.0.1:23791 --initial-advertise-peer-urls http://127.0.0.1:23791 \
        --initial-cluster default=http://127.0.0.1:23791 > "$BENCH_WORK/etcd.log" 2>&1 &
    servers=($!)
    "$BENCH_CONSUL" agent -server -bootstrap-expect=1 -node=one -bind=127.0.0.1 \
        -data-dir="$BENCH_WORK/consul" -http-port=28500 -server-port=28300 -serf-lan-port=28301 \
        -serf-wan-port=-1 -dns-port=-1 -grpc-port=-1 > "$BENCH_WORK/consul.log" 2>&1 &
    servers+=($!)
    trap 'kill "${servers[@]}"; wait' EXIT
    for _ in $(seq 100); do
        if curl -sf http://127.0.0.1:23790/health > /dev/null &&
            [ "$(curl -sf http://127.0.0.1:28500/v1/status/leader)" != '""' ]; then
            break
        fi
        sleep 0.2
    done
    "$BENCH_DRIVER" cluster "$PWD/bin/sublet" 127.0.0.1:23790 127.0.0.1:28500 "$@"
    exit
fi

case "${1-}" in
'' | --quick) ;;
cluster)
    shift
    for tool in curl etcd ip unshare; do
        command -v "$tool" > /dev/null || fail "$tool is missing"
    done
    BENCH_CONSUL=$(scripts/get-consul.sh)
    scripts/build.sh
    cargo build --release --locked --example bench
    BENCH_WORK=$(mktemp -d "${BENCH_DIR:-/var/tmp}/sublet-bench.XXXXXX")
    trap 'rm -rf "$BENCH_WORK"' EXIT
    BENCH_DRIVER=$(realpath "${CARGO_TARGET_DIR:-target}/release/examples/bench")
    BENCH_CONSUL=$(realpath "$BENCH_CONSUL")
    export BENCH_WORK BENCH_CONSUL BENCH_DRIVER
    namespaces=(--mount --propagation private)
    if [ "$(id -u)" = 0 ]; then
        namespaces+=(--net)
        export BENCH_NETNS=1
    else
        namespaces+=(--user --map-root-user)
    fi
    unshare "${namespaces[@]}" "$PWD/scripts/bench.sh" cluster-inside "$@"
    exit
    ;;
docker)
    scripts/build.sh
    cargo build --release --locked --example bench
    work=$(mktemp -d "${BENCH_DIR:-/var/tmp}/sublet-bench.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    "${CARGO_TARGET_DIR:-target}/release/examples/bench" docker "$PWD/bin/subletd" "$work"
    exit
    ;;
*) fail "usage: scripts/bench.sh [--quick | docker | cluster [--quick]]" ;;
esac
for tool in ip strace unshare valgrind; do
    command -v "$tool" > /dev/null || fail "$tool is missing"
done
for plugin in bridge host-local static; do
    [ -x /usr/lib/cni/$plugin ] ||
        fail "/usr/lib/cni/$plugin is missing: apt-get install containernetworking-plugins"
done

scripts/build.sh
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --release --locked --target "$host" --example floor --example bench
built=$PWD/${CARGO_TARGET_DIR:-target}/$host/release/examples
[ -z "${CARGO_TARGET_DIR-}" ] || built=$(realpath "$CARGO_TARGET_DIR")/$host/release/examples

BENCH_WORK=$(mktemp -d "${BENCH_DIR:-/var/tmp}/sublet-bench.XXXXXX")
trap 'rm -rf "$BENCH_WORK"' EXIT
cp bin/sublet bin/subletd "$built/floor" "$BENCH_WORK/"
export BENCH_WORK BENCH_SUBLET=$BENCH_WORK/sublet BENCH_SUBLETD=$BENCH_WORK/subletd BENCH_FLOOR=$BENCH_WORK/floor
export BENCH_DRIVER=$built/bench
BENCH_BUILT="$(rustc --version); glibc, static (scripts/build.sh)"
# musl starts faster than glibc. It is measured if a release can be built for it.
kind=$(packaging/compile.sh "$(dpkg --print-architecture)" "$BENCH_WORK/musl" |
    sed -n 's|.*/sublet: [^,]*, \(.*\), static.*|\1|p')
if [[ $kind == musl* ]]; then
    export BENCH_MUSL=$BENCH_WORK/musl/sublet
    BENCH_BUILT+="; $kind (packaging/compile.sh)"
fi
export BENCH_BUILT

namespaces=(--mount --propagation private)
if [ "$(id -u)" = 0 ]; then
    namespaces+=(--net)
    export BENCH_NETNS=1
else
    namespaces+=(--user --map-root-user)
fi
unshare "${namespaces[@]}" "$PWD/scripts/bench.sh" inside "$@"

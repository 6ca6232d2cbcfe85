#!/usr/bin/env bash
# Functions that run Debian's containerd in its own environment (scripts/e2e/common.sh). Its network consists
# of the plugins bridge, sublet and portmap. Sourced, not run. The sourcing script uses the same variables.
# shellcheck disable=SC2034,SC2154
set -euo pipefail

image=localhost/busybox:e2e

containerd_needs=(
    containerd=containerd
    runc=runc
    busybox=busybox-static
    iptables=iptables
    /usr/lib/cni/bridge=containernetworking-plugins
    ip=iproute2
    jq=jq
    unshare=util-linux
    mount=mount
)

# containerd_folders IPAM: writes all files that containerd reads. IPAM is a JSON object with additional keys
# for `ipam`.
containerd_folders() {
    own_folders
    plugins bridge portmap loopback
    # /64 and /24 are far larger than the number of containers at any time.
    jq -n --argjson more "$1" '{
        cniVersion: "1.0.0", name: "pods", plugins: [
            {type: "bridge", bridge: "cni0", isGateway: true, ipMasq: true, hairpinMode: true,
             ipam: ({type: "sublet", ranges: [[{subnet: "10.77.0.0/24"}], [{subnet: "fd77::/64"}]],
                     routes: [{dst: "0.0.0.0/0"}, {dst: "::/0"}]} + $more)},
            {type: "portmap", capabilities: {portMappings: true}}
        ]}' > /etc/cni/net.d/10-pods.conflist
    # The snapshotter "native" copies a container's files. This works on every file system, even on an
    # overlay.
    cat > "$work/config.toml" <<- END
		version = 2
		disabled_plugins = [
		    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
		    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"
		]
		[plugins."io.containerd.grpc.v1.cri"]
		sandbox_image = "$image"
		restrict_oom_score_adj = true
		[plugins."io.containerd.grpc.v1.cri".containerd]
		snapshotter = "native"
		[plugins."io.containerd.grpc.v1.cri".cni]
		bin_dir = "/opt/cni/bin"
		conf_dir = "/etc/cni/net.d"
	END
    image "$work/image.tar" "$image"
}

containerd_starts() {
    containerd --config "$work/config.toml" >> "$work/containerd.log" 2>&1 &
    containerd=$!
    until_true 30 "containerd answers" answers
}

answers() {
    kill -0 "$containerd" || fail "containerd ended: $(tail -n 20 "$work/containerd.log")"
    ctr version > /dev/null 2>&1
}

# containerd_ends SIGNAL: sends the signal to containerd, and waits until it has ended.
containerd_ends() {
    kill -s "$1" "$containerd"
    wait "$containerd" 2> /dev/null || true
}

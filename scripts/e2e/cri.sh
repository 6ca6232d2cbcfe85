#!/usr/bin/env bash
# Does what a kubelet does with sandboxes through the Container Runtime Interface. A gRPC message is a length
# and a protobuf message in an HTTP/2 request, so protoc and curl are enough. Sourced, not run. The sourcing
# script uses the same variables.
# shellcheck disable=SC2154
set -euo pipefail

# cri METHOD REQUEST: sends a request and prints the response, both as protobuf text. If the request is
# refused, prints the error on stderr and fails.
cri() {
    local job n
    job=$(mktemp -d -p "$work")
    protoc --proto_path=testdata/cri --encode="runtime.v1.$1Request" cri.proto <<< "$2" \
        > "$job/request" || fail "not a $1Request: $2"
    n=$(stat -c %s "$job/request")
    {
        # The message is not compressed. The length has four bytes, with the most significant byte first.
        # shellcheck disable=SC2059
        printf "$(printf '\\0\\x%02x\\x%02x\\x%02x\\x%02x' \
            $((n >> 24 & 255)) $((n >> 16 & 255)) $((n >> 8 & 255)) $((n & 255)))"
        cat "$job/request"
    } > "$job/frame"
    : > "$job/answer"
    if ! curl --silent --show-error --http2-prior-knowledge --max-time 60 \
        --unix-socket /run/containerd/containerd.sock --data-binary "@$job/frame" \
        --header 'content-type: application/grpc' --header 'te: trailers' \
        --dump-header "$job/headers" --output "$job/answer" \
        "http://localhost/runtime.v1.RuntimeService/$1" 2> "$job/errors"; then
        cat "$job/errors" >&2
        return 1
    fi
    # The status is in a trailer. If the response has no message, the status is in the headers.
    if ! grep -q '^grpc-status: 0' "$job/headers"; then
        grep '^grpc-' "$job/headers" >&2
        return 1
    fi
    tail -c +6 "$job/answer" |
        protoc --proto_path=testdata/cri --decode="runtime.v1.$1Response" cri.proto
    rm -r "$job"
}

# run_sandbox POD ATTEMPT [EXTRA]: runs a sandbox and prints its ID.
run_sandbox() {
    local answer
    answer=$(cri RunPodSandbox "config {
        metadata { name: \"$1\" uid: \"uid-of-$1\" namespace: \"tests\" attempt: $2 }
        hostname: \"$1\" log_directory: \"$work/logs\"
        linux { cgroup_parent: \"/$cgroup\" } ${3-} }") || return 1
    cut -d '"' -f 2 <<< "$answer"
}

# remove_sandbox ID: stops and removes the sandbox. It may be called again for the same sandbox, because a
# kubelet may repeat both calls.
remove_sandbox() {
    cri StopPodSandbox "pod_sandbox_id: \"$1\"" && cri RemovePodSandbox "pod_sandbox_id: \"$1\""
}

# Prints a line with ID, POD, ATTEMPT and STATE for each sandbox. READY is the default of the state, so
# protobuf text leaves it out.
sandboxes() {
    cri ListPodSandbox "" | awk '
        $1 == "items" { id = pod = ""; attempt = 0; state = "READY" }
        $1 == "id:" { gsub("\"", ""); id = $2 }
        $1 == "name:" { gsub("\"", ""); pod = $2 }
        $1 == "attempt:" { attempt = $2 }
        $1 == "state:" { state = "NOTREADY" }
        $0 == "}" { print id, pod, attempt, state }'
}

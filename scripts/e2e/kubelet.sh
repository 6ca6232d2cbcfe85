#!/usr/bin/env bash
# Does what a kubelet does with the pod of a DaemonSet through the Container Runtime Interface
# (scripts/e2e/cri.sh): it creates the sandbox, runs the init containers one after the other, and then starts
# the containers. It uses the commands, images, volumes and security contexts of the manifest. Sourced, not
# run. The sourcing script uses the same variables.
# shellcheck disable=SC2034,SC2154
set -euo pipefail

# The containers of the running pod, and its sandbox.
pod_sandbox=
pod_containers=()
pod_number=0

# The paths that a kubelet masks or makes read-only, unless a pod has procMount.
proc_paths='masked_paths: ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"]
    readonly_paths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]'

# pod_config MANIFEST: prints the configuration of the sandbox for the DaemonSet, as protobuf text.
pod_config() {
    local namespaces
    namespaces=$(jq --raw-output '.[] | select(.kind == "DaemonSet").spec.template.spec
        | "network: \(if .hostNetwork then "NODE" else "POD" end) pid: \(if .hostPID then "NODE" else "CONTAINER" end)"
        ' "$1")
    echo "metadata { name: \"sublet\" uid: \"uid-$pod_number\" namespace: \"kube-system\" }
        log_directory: \"$work/logs/$pod_number\"
        linux { cgroup_parent: \"/$cgroup\" security_context { namespace_options { $namespaces } } }"
}

# container_config MANIFEST KIND INDEX: prints the configuration of one container (KIND is `initContainers` or
# `containers`). The volume of a ConfigMap is the folder $work/configmaps/NAME.
container_config() {
    jq --raw-output --arg kind "$2" --argjson at "$3" --arg maps "$work/configmaps" --arg paths "$proc_paths" '
        def text: tojson;
        .[] | select(.kind == "DaemonSet").spec.template.spec as $pod
        | (reduce $pod.volumes[] as $v ({}; .[$v.name] = ($v.hostPath.path // "\($maps)/\($v.configMap.name)")))
            as $paths_of
        | $pod[$kind][$at] | .securityContext as $security
        | "metadata { name: \(.name | text) } image { image: \(.image | text) } log_path: \("\(.name).log" | text)",
          (.command[] | "command: \(text)"),
          (.volumeMounts[] | "mounts { container_path: \(.mountPath | text) host_path: \($paths_of[.name] | text)
              readonly: \(.readOnly // false) }"),
          "linux { security_context { namespace_options { network: NODE pid: \(if $pod.hostPID then "NODE"
              else "CONTAINER" end) } capabilities { "
              + ([$security.capabilities.add[]? | "add_capabilities: \(text) "] | add // "")
              + ([$security.capabilities.drop[]? | "drop_capabilities: \(text) "] | add // "") + "}
              run_as_user { value: \($pod.securityContext.runAsUser) }
              run_as_group { value: \($pod.securityContext.runAsGroup) }
              readonly_rootfs: \($security.readOnlyRootFilesystem)
              no_new_privs: \($security.allowPrivilegeEscalation | not)
              seccomp { profile_type: \($pod.securityContext.seccompProfile.type) } \($paths) } }"' "$1"
}

# container_starts MANIFEST KIND INDEX: starts a container, and prints its ID.
container_starts() {
    local answer id
    answer=$(cri CreateContainer "pod_sandbox_id: \"$pod_sandbox\" sandbox_config { $(pod_config "$1") }
        config { $(container_config "$@") }") || return 1
    id=$(cut -d '"' -f 2 <<< "$answer")
    cri StartContainer "container_id: \"$id\"" > /dev/null || return 1
    echo "$id"
}

# container_state ID: prints "created", "running", or the exit status.
container_state() {
    cri ContainerStatus "container_id: \"$1\"" | awk '
        $1 == "state:" { state = $2 }
        $1 == "exit_code:" { code = $2 }
        END { print state == "CONTAINER_RUNNING" ? "running" : state == "CONTAINER_EXITED" ? code + 0 : "created" }'
}

container_ended() {
    [[ $(container_state "$1") =~ ^-?[0-9]+$ ]]
}

# pod_starts MANIFEST: starts the pod. Fails if an init container fails.
pod_starts() {
    local at id path answer
    pod_number=$((pod_number + 1))
    mkdir -p "$work/logs/$pod_number"
    # Create the missing folders, as for a volume of type DirectoryOrCreate.
    while read -r path; do
        mkdir -p "$path"
    done < <(jq --raw-output '.[] | select(.kind == "DaemonSet").spec.template.spec.volumes[].hostPath
        | select(.type == "DirectoryOrCreate").path' "$1")
    answer=$(cri RunPodSandbox "config { $(pod_config "$1") }") || return 1
    pod_sandbox=$(cut -d '"' -f 2 <<< "$answer")
    pod_containers=()
    for at in $(jq '.[] | select(.kind == "DaemonSet").spec.template.spec.initContainers | keys[]' "$1"); do
        id=$(container_starts "$1" initContainers "$at") || return 1
        until_true 60 "init container $at ends" container_ended "$id"
        [ "$(container_state "$id")" = 0 ] || return 1
    done
    for at in $(jq '.[] | select(.kind == "DaemonSet").spec.template.spec.containers | keys[]' "$1"); do
        pod_containers+=("$(container_starts "$1" containers "$at")") || return 1
    done
}

# pod_ends: sends SIGTERM to every container. Each must exit with 0 in time.
pod_ends() {
    local id
    for id in "${pod_containers[@]}"; do
        cri StopContainer "container_id: \"$id\" timeout: 10"
        [ "$(container_state "$id")" = 0 ] || fail "a container ended with $(container_state "$id"): $(pod_log)"
    done
    remove_sandbox "$pod_sandbox"
}

# pod_log: prints the output of all containers of the pod.
pod_log() {
    cat "$work/logs/$pod_number"/*.log
}

pod_log_has() {
    pod_log | grep -q -e "$1"
}

#!/usr/bin/env bash
# Renders packaging/kubernetes with Debian's kubectl, and packaging/helm, which must give the same result.
# Every document is checked with kubernetes-validate against the schemas of Kubernetes, the rules with
# promtool, and the network configuration with sublet itself. Prints the folder with the rendered files. Helm
# does not run here. Usage: kubernetes.sh
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "kubernetes.sh: $*" >&2
    exit 1
}

[ -x bin/sublet ] || fail "bin/sublet is missing: run scripts/build.sh"
out=${CARGO_TARGET_DIR:-target}/kubernetes
rm -rf "$out/sources" "$out/rendered"
mkdir -p "$out/sources" "$out/rendered"
out=$(realpath "$out")
kubectl=$(scripts/e2e/unpack.sh trixie kubectl usr/bin/kubectl)
python=$out/python/bin/python3
validate=kubernetes-validate==1.37.0
if [ ! -e "$out/python/$validate" ]; then
    rm -rf "$out/python"
    python3 -m venv "$out/python"
    "$out/python/bin/pip" install --quiet "$validate" >&2
    touch "$out/python/$validate"
fi

# kustomize NAME LINE...: renders a kustomization that consists of these lines.
kustomize() {
    local name=$1
    shift
    mkdir "$out/sources/$name"
    printf '%s\n' "apiVersion: kustomize.config.k8s.io/v1beta1" "kind: Kustomization" "$@" \
        > "$out/sources/$name/kustomization.yaml"
    "$kubectl" kustomize "$out/sources/$name" > "$out/rendered/$name.yaml"
}

# chart NAME LINE...: renders the Helm chart with these lines as values.
chart() {
    local name=$1
    shift
    printf '%s\n' "$@" > "$out/sources/$name.values.yaml"
    "$python" packaging/kubernetes/render.py render packaging/helm/sublet "$out/sources/$name.values.yaml" \
        > "$out/rendered/$name.chart.yaml"
    "$python" packaging/kubernetes/render.py compare "$out/rendered/$name.yaml" "$out/rendered/$name.chart.yaml"
}

# A kustomization refers to other kustomizations by relative paths.
from=$(realpath --relative-to="$out/sources/any" packaging/kubernetes)
conflist=$(sed 's/^/  /' packaging/kubernetes/components/conflist/10-sublet.conflist)
kustomize base "resources: [$from/base]"
chart base '{}'
kustomize host-local "resources: [$from/base]" "components: [$from/components/host-local]"
chart host-local "hostLocal: true"
kustomize conflist "namespace: kube-system" "resources: [$from/base]" "components: [$from/components/conflist]"
chart conflist "conflist: |" "$conflist"
kustomize page "resources: [$from/base]" "components: [$from/components/page]"
chart page "page: true"
kustomize monitoring "resources: [$from/monitoring]"
chart monitoring "page: true" "monitoring: true"
kustomize everything "namespace: kube-system" "resources: [$from/monitoring]" \
    "components: [$from/components/host-local, $from/components/conflist]"
chart everything "page: true" "monitoring: true" "hostLocal: true" "conflist: |" "$conflist"
kustomize uninstall "resources: [$from/uninstall]"

mkdir -p "$out/core"
rm -f "$out/core"/*
for file in "$out"/rendered/*.yaml; do
    name=$(basename "$file" .yaml)
    "$python" packaging/kubernetes/render.py json "$file" > "$out/rendered/$name.json"
    # The Kubernetes schemas do not include the schemas of the Prometheus operator.
    jq --raw-output '.[] | select(.apiVersion | startswith("monitoring.coreos.com/") | not) | "---", tojson' \
        "$out/rendered/$name.json" > "$out/core/$name.yaml"
done
for version in 1.30 1.32 1.37; do
    "$out/python/bin/kubernetes-validate" --strict --quiet -k "$version" "$out"/core/*.yaml >&2 ||
        fail "not valid for Kubernetes $version"
done
jq '.[] | select(.kind == "PrometheusRule") | .spec' "$out/rendered/monitoring.json" > "$out/rules.json"
promtool check rules "$out/rules.json" > "$out/promtool.log" || fail "promtool: $(cat "$out/promtool.log")"
bin/sublet check packaging/kubernetes/components/conflist/10-sublet.conflist > "$out/check.log" ||
    fail "sublet check: $(cat "$out/check.log")"
echo "$out/rendered"

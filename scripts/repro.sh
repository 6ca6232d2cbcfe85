#!/usr/bin/env bash
# Builds the release of the last commit twice, from scratch, in two clones in different folders, and compares
# all files. Takes twice the time of a release.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Choose the commit once, because there may be new commits while this script runs.
commit=$(git rev-parse HEAD)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
# Before a release, the section in CHANGELOG.md has no date yet. The commit that sets the date must be the
# same in both clones.
date=$(git log -1 --format=%cs "$commit")
time=$(git log -1 --format=%ct "$commit")
export GIT_AUTHOR_NAME=repro GIT_AUTHOR_EMAIL=repro@localhost GIT_AUTHOR_DATE="$time +0000"
export GIT_COMMITTER_NAME=repro GIT_COMMITTER_EMAIL=repro@localhost GIT_COMMITTER_DATE="$time +0000"
for copy in one another/deeper/two; do
    git clone --quiet . "$work/$copy"
    (
        unset CARGO_TARGET_DIR
        cd "$work/$copy"
        git checkout --quiet --detach "$commit"
        if sed -i "s/^## \[$version\] - unreleased$/## [$version] - $date/" CHANGELOG.md && ! git diff --quiet; then
            git commit --quiet --all --message "$version"
        fi
        packaging/release.sh "$version"
        cat dist/*.sha256 > "$work/$(basename "$copy").sums"
        rm -rf target
    )
done
cat "$work/one.sums"
if ! diff "$work/one.sums" "$work/two.sums"; then
    echo "repro.sh: two builds of one commit differ" >&2
    exit 1
fi
echo "repro.sh: the same, bit by bit"

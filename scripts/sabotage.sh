#!/usr/bin/env bash
# Applies patches with known faults to a copy of the sources, one patch at a time. The tests that a patch
# names must then fail. tests/sabotage/README.md describes the patches.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never

usage() {
    cat << 'END'
usage: scripts/sabotage.sh [--all | --five | NAME...] [--resume | --simulator]

  --all      every patch in tests/sabotage (the default)
  --five     the five patches that continuous integration tries
  NAME       the patch tests/sabotage/NAME.patch
  --resume   skip the patches whose faults the last run on the same sources has found
  --simulator  only patches with the line "simulator: -": run the simulator for 60 s instead of the
             tests that the patch names, and replace "-" by "yes" if it finds the fault, else "no"

The script applies each patch to a copy of the working tree (including uncommitted changes), builds the
copy, and runs the tests that the patch names. A patch passes if an assertion fails in each of these
tests. A patch that does not apply or compile, or whose fault a test does not find, counts as failed.
The copy and its build are in target/sabotage.
END
}

# One patch from each of five source folders: the patch whose tests run fastest.
five=(
    cursor-is-lost
    policy-nonce-is-not-compared
    host-local-folder-only-moved
    grace-period-is-ignored
    fence-is-skipped
)

resume=
simulator=
names=()
for arg in "$@"; do
    case $arg in
        --all) names=() ;;
        --five) names=("${five[@]}") ;;
        --resume) resume=yes ;;
        --simulator) simulator=yes ;;
        -h | --help)
            usage
            exit
            ;;
        -*)
            usage >&2
            exit 2
            ;;
        *) names+=("$(basename "$arg" .patch)") ;;
    esac
done
patches=$PWD/tests/sabotage
if [ ${#names[@]} = 0 ]; then
    for patch in "$patches"/*.patch; do
        names+=("$(basename "$patch" .patch)")
    done
fi
for name in "${names[@]}"; do
    if [ ! -f "$patches/$name.patch" ]; then
        echo "sabotage.sh: there is no tests/sabotage/$name.patch" >&2
        exit 2
    fi
done

lab=$PWD/target/sabotage
built=$(realpath -m "${CARGO_TARGET_DIR-target}")/debug
copy=$lab/tree
mkdir -p "$copy"
git_dir=$(git rev-parse --absolute-git-dir)
# Build without debug information, because this is faster. Use a separate build folder, so that no other
# command uses a program with a fault.
export CARGO_TARGET_DIR=$lab/target CARGO_INCREMENTAL=1
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=false
unset SUBLET_LONG

# The first build reuses the dependencies that have already been built, but not the program itself.
if [ ! -d "$CARGO_TARGET_DIR" ] && [ -d "$built/deps" ]; then
    for part in .fingerprint build deps; do
        mkdir -p "$CARGO_TARGET_DIR/debug/$part"
        find "$built/$part" -mindepth 1 -maxdepth 1 ! -name 'sublet*' ! -name 'libsublet*' \
            ! -name 'it-*' -exec cp -a --reflink=auto -t "$CARGO_TARGET_DIR/debug/$part" {} +
    done
fi

in_copy() {
    (cd "$copy" && GIT_DIR=$git_dir GIT_WORK_TREE=$copy GIT_INDEX_FILE=$lab/index git "$@")
}

# Prints the name of a git tree with the content of the working tree. The index of the repository is not
# changed.
sources() {
    rm -f "$lab/now"
    cp "$(git rev-parse --git-path index)" "$lab/now"
    GIT_INDEX_FILE=$lab/now git add --all
    GIT_INDEX_FILE=$lab/now git write-tree
}

# Writes only the files that differ, so that little has to be compiled again.
restore() {
    in_copy read-tree -u --reset "$tree"
}

field() {
    sed -n "s/^$1: //p" "$patches/$2.patch"
}

# Prints the tests that a patch names, one on each line.
tests_of() {
    field caught-by "$1" | tr ',' '\n' | tr -d ' '
}

# Prints the build target of each test: `it::` stands for tests/it, and all other tests are in the library.
targets() {
    local test
    for test in "$@"; do
        case $test in
            it::*) echo --test=it ;;
            *) echo --lib ;;
        esac
    done | sort -u
}

nextest=
if cargo nextest --version > /dev/null 2>&1; then
    nextest=yes
fi

build() {
    (cd "$copy" && cargo test --no-run --locked --quiet "$@")
}

# Runs these tests, which must have been built already. Prints their report on standard output.
run() {
    local test filter=
    local -a options exact
    mapfile -t options < <(targets "$@")
    if [ "$nextest" ]; then
        for test in "$@"; do
            filter+="${filter:+ | }test(=${test#it::})"
        done
        (cd "$copy" && cargo nextest run --profile sabotage --locked --no-fail-fast "${options[@]}" -E "$filter") 2>&1
    else
        exact=("${@#it::}")
        (cd "$copy" && timeout 120 cargo test --locked --no-fail-fast "${options[@]}" \
            -- --exact "${exact[@]}") 2>&1
    fi
}

# Returns whether the report shows that a test failed by a panic, and not by a signal or by its time limit.
failed_by_assertion() {
    local report=$1 test=${2#it::}
    if [ "$nextest" ]; then
        grep -qE "^ +FAIL \[.* $test\$" "$report" || return 1
    else
        grep -qE "^test $test \.\.\. FAILED\$" "$report" || return 1
    fi
    grep -qE "^ *thread '.*' .*panicked at |^ *thread '.*' panicked at " "$report"
}

last() {
    grep -vE '^ *$' "$1" | tail -n 15 | sed 's/^/    /' >&2
}

tree=$(sources)
restore
if [ "$simulator" ]; then
    simulate=(test --locked --lib simulated_)
    # As soon as one simulation finds a fault, nextest stops the others.
    [ -z "$nextest" ] || simulate=(nextest run --locked --lib --max-fail 1:immediate -E 'test(simulated_)')
    for name in "${names[@]}"; do
        [ "$(field simulator "$name")" = - ] || continue
        begin=$SECONDS
        found=
        if ! in_copy apply "$patches/$name.patch" || ! build --lib > "$lab/report" 2>&1; then
            found="does not apply or compile"
        elif (cd "$copy" && SUBLET_SECONDS=60 cargo "${simulate[@]}") > "$lab/report" 2>&1; then
            found=no
        elif grep -qE '^test .*simulated_.* FAILED$|^ +FAIL .*simulated_' "$lab/report"; then
            found=yes
        fi
        case $found in yes | no) sed -i "s/^simulator: -$/simulator: $found/" "$patches/$name.patch" ;; esac
        echo "$name ($((SECONDS - begin)) s): ${found:-the simulator did not end}"
        restore
    done
    exit
fi
caught=$lab/caught-$tree
[ "$resume" ] || rm -f "$lab"/caught-*
touch "$caught"
if [ "$resume" ]; then
    left=()
    for name in "${names[@]}"; do
        grep -qxF "$name" "$caught" || left+=("$name")
    done
    echo "sabotage.sh: $((${#names[@]} - ${#left[@]})) of ${#names[@]} patches were caught before"
    names=("${left[@]}")
fi

passed=0
failed=0
if [ ${#names[@]} -gt 0 ]; then
    # Without a fault, the tests must pass. Otherwise their failure with a fault would prove nothing.
    mapfile -t all < <(for name in "${names[@]}"; do tests_of "$name"; done | sort -u)
    mapfile -t options < <(targets "${all[@]}")
    report=$lab/report
    begin=$SECONDS
    build "${options[@]}"
    begun=$SECONDS
    if ! run "${all[@]}" > "$report"; then
        echo "sabotage.sh: a test fails without any patch:" >&2
        last "$report"
        exit 1
    fi
    ran=$(grep -cE '^ +PASS \[|^test .* \.\.\. ok$' "$report")
    if [ "$ran" != "${#all[@]}" ]; then
        echo "sabotage.sh: $ran of ${#all[@]} named tests exist:" >&2
        for test in "${all[@]}"; do
            grep -qE " ${test#it::}( |\$)" "$report" || echo "    no test $test" >&2
        done
        exit 1
    fi
    echo "${#all[@]} tests pass without a patch (build $((begun - begin)) s, tests $((SECONDS - begun)) s)"
fi

for name in "${names[@]+"${names[@]}"}"; do
    begin=$SECONDS
    mapfile -t tests < <(tests_of "$name")
    mapfile -t options < <(targets "${tests[@]}")
    verdict=
    if ! in_copy apply "$patches/$name.patch" 2> "$report"; then
        verdict="does not apply"
    elif ! build "${options[@]}" > "$report" 2>&1; then
        verdict="does not compile"
    else
        run "${tests[@]}" > "$report" || true
        for test in "${tests[@]}"; do
            failed_by_assertion "$report" "$test" || verdict="is not caught by $test"
        done
    fi
    if [ "$verdict" ]; then
        failed=$((failed + 1))
        echo "FAILED $name ($((SECONDS - begin)) s): $verdict"
        last "$report"
    else
        passed=$((passed + 1))
        echo "$name" >> "$caught"
        echo "caught $name ($((SECONDS - begin)) s)"
    fi
    restore
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
